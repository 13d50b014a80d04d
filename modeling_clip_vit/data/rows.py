"""What a dataset gives: rows, samples made of them, and what could not be used and why."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from .errors import DataError


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
        pixels: uint8, (3, S, S); None if only stored features of the image are used.
        noise: of what is done to the whole batch, (NOISE_SIZE,); None without pixels.
        texts: its texts.
        concept: what it shows.
        seed: of what else is random: crop, policy, mixing.
        image_features: what models made of the image beforehand, each (D,), by its name in a batch.
        text_features: the same for its texts, each (number of texts, D).
    """

    pixels: torch.Tensor | None
    noise: torch.Tensor | None
    texts: list[str]
    concept: int
    seed: int = 0
    image_features: dict[str, torch.Tensor] = field(default_factory=dict)
    text_features: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def num_texts(self) -> int:
        """How many texts it has, also where only their features are left."""
        features = next(iter(self.text_features.values()), self.texts)
        return len(features)


@dataclass
class SkippedSample:
    """A row that could not be used, and why."""

    name: str
    reason: str


@dataclass
class BadSamples:
    """Rows that could not be used: counted, and the first few named.

    With few rows, a ratio would allow no bad row at all, so up to `FEW` of them may be bad, as long
    as that is at most an eighth.
    """

    FEW: ClassVar[int] = 3

    limit: float
    seen: int = 0
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str, reason: str):
        """Note one bad image."""
        self.count += 1
        if len(self.examples) < 20:
            self.examples.append(f"{name} ({reason})")

    def check(self, path: str):
        """Raise a DataError if their share is over the limit."""
        few = min(self.FEW, self.seen // 8) if self.limit > 0 else 0
        if self.seen and self.count > max(self.limit * self.seen, few):
            raise DataError(
                f"{self.count} of {self.seen} rows of {path!r} cannot be used, more than "
                f"max_bad_sample_ratio={self.limit:g} allows; the first: {self.examples[0]}"
            )
