"""The cells of a prepared picture: what is explained, filled and summed up as one.

Shape legend: `B` pictures, `N` cells, `X` and `Y` columns and rows of cells.
"""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Cells:
    """A grid over a prepared picture.

    Args:
        rows, columns: of the grid.
        index: the cell, counted row by row, of each pixel (height, width) or of each flattened
            patch (patches, 1): it broadcasts against the last two dimensions of `pixel_values`.
    """

    rows: int
    columns: int
    index: torch.Tensor

    def __len__(self) -> int:
        return self.rows * self.columns

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum values within each cell: (Y, X).

        Args:
            values: one for each number of the picture, of the shape of its `pixel_values[0]`.
        """
        index = self.index.expand(values.shape).flatten()
        sums_N = values.new_zeros(len(self)).index_add(0, index, values.flatten())
        return sums_N.unflatten(0, (self.rows, self.columns))

    def mix(self, picture: torch.Tensor, blank: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Pictures of which some cells are blank.

        Args:
            picture, blank: `pixel_values` of one picture, with its first dimension, 1.
            kept: whether a cell is the picture's, (B, N).

        Returns:
            `pixel_values` of B pictures.
        """
        mask = kept[:, self.index]
        if picture.ndim == 4:
            mask = mask.unsqueeze(1)
        return torch.where(mask, picture, blank)


def pixel_cells(height: int, width: int, rows: int, columns: int) -> Cells:
    """Cells of a picture of pixels, of equal size up to one pixel."""
    row = torch.arange(height) * rows // height
    column = torch.arange(width) * columns // width
    return Cells(rows, columns, row.unsqueeze(1) * columns + column)


def patch_cells(rows: int, columns: int) -> Cells:
    """Cells of a picture of flattened patches (Siglip2): each patch is one."""
    return Cells(rows, columns, torch.arange(rows * columns).unsqueeze(1))
