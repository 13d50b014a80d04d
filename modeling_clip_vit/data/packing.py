"""Plan which texts share a row.

Shape legend: `T` texts, `L` tokens of a padded text, `R` packed rows, `W` tokens of a packed row.
"""

from collections.abc import Sequence

import torch

#: Rows of this many tokens waste little, whatever the lengths.
ROW_WIDTH = 64


def plan_packing(lengths: Sequence[int], longest: int) -> torch.Tensor:
    """Put texts into rows, the longest first, each into the first row that has room for it.

    Args:
        lengths: tokens of each text.
        longest: tokens of a padded text, L.

    Returns:
        Which token stands where, (R, W), as the model's `packed_places`.
    """
    width = max(longest, ROW_WIDTH)
    rows: list[list[int]] = []
    room: list[int] = []
    first_open = 0
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        length = lengths[text]
        row = next((r for r in range(first_open, len(rows)) if room[r] >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row] += range(text * longest, text * longest + length)
        room[row] -= length
        while first_open < len(rows) and room[first_open] == 0:
            first_open += 1
    places_RW = torch.full((len(rows), width), -1)
    for row, tokens in enumerate(rows):
        places_RW[row, : len(tokens)] = torch.tensor(tokens)
    return places_RW


def plan_for_mask(mask_TL: torch.Tensor) -> torch.Tensor | None:
    """A plan for texts that are padded on the right; None where it would save little.

    Args:
        mask_TL: 1 for a token, 0 for padding, on the CPU.
    """
    lengths = mask_TL.long().sum(dim=1).tolist()
    places_RW = plan_packing(lengths, mask_TL.shape[1])
    return places_RW if places_RW.numel() < 0.8 * mask_TL.numel() else None
