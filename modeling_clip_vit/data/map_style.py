"""Map-style datasets: the sample of a row number, in any order.

Shape legend: `N` images, `S` side in pixels.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from datasets import Dataset
from torch.utils.data import Dataset as MapDataset

from .images import image_name
from .rows import Row, Sample, SkippedSample
from .samples import SampleMaker


class Images(Protocol):
    """The images of a table, by row."""

    def __getitem__(self, row: int) -> tuple[Any, str]:
        """The image of a row, encoded or as pixels, and what to call the row in a message."""


class StoredImages:
    """Images that were all decoded beforehand.

    Args:
        pixels: uint8 (N, 3, S, S).
        rows: the row of each.
    """

    def __init__(self, pixels: torch.Tensor, rows: list[int]):
        self.pixels = pixels
        self.position = {row: position for position, row in enumerate(rows)}

    def __getitem__(self, row: int) -> tuple[torch.Tensor, str]:
        return self.pixels[self.position[row]], f"row {row}"


class EncodedImages:
    """Images that are read from their table whenever a sample is made, in the loader's workers.

    Args:
        split: the table.
        column: its column of images.
    """

    def __init__(self, split: Dataset, column: str):
        self.split, self.column = split, column

    def __getitem__(self, row: int) -> tuple[Any, str]:
        image = self.split[row][self.column]
        return image, image_name(image, row)


class ImageTextSamples(MapDataset):
    """Rows of a table, varied anew in each epoch.

    An index is a pair (row, draw). All that is random in a sample comes from the seed and that
    pair.

    Args:
        images: of the rows.
        maker: makes samples of rows.
        concepts: concept number of each row: rows of one concept belong together; None if equal
            captions do.
    """

    def __init__(self, images: Images, maker: SampleMaker, concepts: Sequence[int] | None = None):
        self.images, self.maker, self.concepts = images, maker, concepts

    def __getitem__(self, index: tuple[int, int]) -> Sample | SkippedSample:
        number, draw = index
        image, name = self.images[number]
        row = Row(name, {self.maker.image_column: image}, number=number)
        if self.concepts is not None:
            row.concept = self.concepts[number]
        return self.maker.make(row, draw, number)
