"""What a dataset gives: rows, samples made of them, and what could not be used and why."""

from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Row:
    """One row of a dataset.

    Args:
        name: what to call it in a message; in a stream, all that is random in its sample comes
            from it.
        columns: its values by column; images as bytes, as the `{"bytes", "path"}` of `datasets`, or
            already as pixels, uint8 (3, S, S).
        passes: how often the stream has started over before it.
        folder: what its paths to files begin at.
        number: its place in a table.
        concept: what it shows, if the whole dataset has been read and its concepts are numbered.
    """

    name: str
    columns: dict[str, Any]
    passes: int = field(default=0, compare=False)
    folder: str = ""
    number: int = 0
    concept: int | None = None


@dataclass
class Sample:
    """One image with its texts and the random numbers of its augmentation.

    Args:
        pixels: uint8, (3, S, S).
        noise: of what is done to the whole batch, (NOISE_SIZE,).
        texts: its texts.
        concept: what it shows.
        seed: of what else is random: crop, policy, mixing.
    """

    pixels: torch.Tensor
    noise: torch.Tensor
    texts: list[str]
    concept: int
    seed: int = 0


@dataclass
class SkippedSample:
    """A row that could not be used, and why."""

    name: str
    reason: str
