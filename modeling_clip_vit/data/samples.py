"""From a row to a sample, of a table or of a stream: draw its texts, then decode its image.

Shape legend: `S` side in pixels.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .captions import MissingTextError, RowTexts, draw_texts, stable_number
from .decoding import BadImageError
from .errors import DataError
from .files.places import locate_image
from .images import decode_pixels
from .policies import SampleAugment
from .rows import Row, Sample, SkippedSample
from .transforms import NOISE_SIZE


@dataclass
class DrawnSample:
    """A sample whose image is still encoded."""

    name: str
    image: Any
    noise: torch.Tensor
    texts: list[str]
    concept: int
    seed: int

    @property
    def length(self) -> int:
        """Bytes of its longest text: what a tokenizer makes of them grows with it."""
        return max((len(text.encode()) for text in self.texts), default=0)


class SampleMaker:
    """Makes samples of rows.

    All that is random in a sample comes from the seed and the key of its draw, so a sample is the
    same in any batch, worker or process.

    Args:
        image_column: column of images.
        texts: the captions and classes of rows; None for samples without texts.
        augment: cuts an image to size and varies it.
        seed: of everything random.
        concept_column: rows with an equal value are positives of each other. It is not read for
            rows whose concept is numbered; without one, equal captions are positives.
    """

    def __init__(
        self,
        image_column: str,
        texts: RowTexts | None,
        augment: SampleAugment,
        seed: int,
        concept_column: str | None = None,
    ):
        self.image_column, self.texts, self.augment = image_column, texts, augment
        self.seed, self.concept_column = seed, concept_column

    def columns(self) -> list[str]:
        """Every column that a sample is made of, the images first."""
        texts = self.texts.options.columns() if self.texts else []
        concept = [self.concept_column] if self.concept_column else []
        return list(dict.fromkeys([self.image_column, *texts, *concept]))

    def of_size(self, size: int) -> "SampleMaker":
        """The same for images with this side in pixels."""
        if size == self.augment.size:
            return self
        return self.with_augment(SampleAugment(self.augment.options, size))

    def with_augment(self, augment: SampleAugment) -> "SampleMaker":
        """The same with images cut to size and varied in another way."""
        return SampleMaker(self.image_column, self.texts, augment, self.seed, self.concept_column)

    def make(self, row: Row, *key: int) -> Sample | SkippedSample:
        """A sample of a row.

        Args:
            row: of a dataset.
            key: tells this draw of this row from all others, such as (epoch, row).
        """
        drawn = self.draw(row, *key)
        return self.decode(drawn) if isinstance(drawn, DrawnSample) else drawn

    def make_without_image(self, row: Row, *key: int) -> Sample | SkippedSample:
        """The same sample, its image neither read nor varied; arguments as for `make`."""
        drawn = self.draw(row, *key)
        if isinstance(drawn, SkippedSample):
            return drawn
        return Sample(None, drawn.noise, drawn.texts, drawn.concept, drawn.seed)

    def draw(self, row: Row, *key: int) -> DrawnSample | SkippedSample:
        """The texts and the random numbers of a row; arguments as for `make`."""
        rng = np.random.default_rng((self.seed, *key))
        noise = torch.from_numpy(rng.random(NOISE_SIZE, dtype=np.float32))
        try:
            texts, captions = draw_texts(self.texts, row, rng) if self.texts else ([], [])
            "".join(texts).encode()  # a folder's name, which is a class, may be no text
            image = self.find_image(row)
        except (MissingTextError, UnicodeEncodeError, DataError) as error:
            return SkippedSample(row.name, str(error))
        # Of crop, policy and mixing.
        seed = int(rng.integers(2**63))
        return DrawnSample(row.name, image, noise, texts, self.find_concept(row, captions), seed)

    def find_image(self, row: Row) -> Any:
        """The image of a row as it is stored.

        Raises:
            DataError: it has none.
        """
        image = row.columns.get(self.image_column)
        if self.image_column not in row.columns:
            columns = ", ".join(row.columns) or "nothing"
            raise BadImageError(f"there is no {self.image_column!r}: it has {columns}")
        if image is None:
            raise BadImageError("there is no image")
        return locate_image(image, row.folder) if isinstance(image, str) else image

    def find_concept(self, row: Row, captions: list[str]) -> int:
        """The concept of a row, as a number that is the same in every process."""
        if row.concept is not None:
            return row.concept
        if self.concept_column is None:
            return stable_number("\n".join(captions))
        value = row.columns.get(self.concept_column)
        if value is None or value != value:  # what is missing is equal to nothing
            return stable_number(f"row {row.name}")
        return stable_number(json.dumps(value, sort_keys=True, default=str))

    def decode(self, drawn: DrawnSample) -> Sample | SkippedSample:
        """Decode the image, unless it comes as pixels, and vary it."""
        try:
            image = drawn.image
            if not isinstance(image, torch.Tensor):
                image = decode_pixels(image, self.augment.size, self.augment.least_area)
            pixels = self.augment(image, drawn.seed)
        except BadImageError as error:
            return SkippedSample(drawn.name, str(error))
        return Sample(pixels, drawn.noise, drawn.texts, drawn.concept, drawn.seed)
