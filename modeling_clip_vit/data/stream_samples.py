"""From a row of a stream to a sample: draw its text first, decode its image later.

Shape legend: `S` side in pixels.
"""

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batches import Sample, SkippedSample, draw_seed
from .captions import (
    CaptionOptions,
    choose_columns,
    draw_one,
    find_texts,
    stable_number,
    vary_caption,
)
from .images import BadImageError, decode_image
from .policies import SampleAugment
from .tars import Row
from .transforms import NOISE_SIZE, AugmentOptions


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
        return max(len(text.encode()) for text in self.texts)


class MissingTextError(ValueError):
    """A row without a usable caption."""


class SampleMaker:
    """Makes samples of rows.

    All that is random in a sample comes from the seed, the epoch, the pass within the epoch and
    the row's name, so a sample is the same in any batch, worker or process.

    Args:
        image_column: column of images.
        captions: which columns hold captions, and how texts are made of them. A caption may be a
            list of strings, of which one is drawn.
        concept_column: rows with an equal value are positives of each other; where it is null,
            rows with equal captions are.
        image_size: side S of the pixels.
        seed: of everything random.
        augment: how images are varied one at a time; None for not at all.
    """

    def __init__(
        self,
        image_column: str,
        captions: CaptionOptions,
        concept_column: str | None,
        image_size: int,
        seed: int,
        augment: AugmentOptions | None = None,
    ):
        self.image_column = image_column
        self.captions = captions
        self.concept_column = concept_column
        self.vary = SampleAugment(augment or AugmentOptions(), image_size)
        self.seed = seed

    def columns(self) -> list[str]:
        """Every column that a sample is made of."""
        columns = [self.image_column, *self.captions.caption_columns]
        columns += self.captions.tags_columns.values()
        return columns + ([self.concept_column] if self.concept_column else [])

    def draw(self, row: Row | SkippedSample, epoch: int) -> DrawnSample | SkippedSample:
        """The texts and the random numbers of a row."""
        if isinstance(row, SkippedSample):
            return row
        rng = np.random.default_rng((self.seed, epoch, row.passes, stable_number(row.name)))
        noise = torch.from_numpy(rng.random(NOISE_SIZE, dtype=np.float32))
        try:
            columns = choose_columns(self.captions, rng)
            drawn = [self.draw_caption(row.columns, column, rng) for column in columns]
            texts = [
                vary_caption(caption, column, self.tags(row.columns, column), self.captions, rng)
                for column, caption in zip(columns, drawn, strict=True)
            ]
            "".join(texts).encode()
        except (MissingTextError, UnicodeEncodeError) as error:
            return SkippedSample(row.name, str(error))
        image = row.columns.get(self.image_column)
        if image is None:
            have = ", ".join(row.columns) or "nothing"
            return SkippedSample(row.name, f"there is no {self.image_column!r}: it has {have}")
        concept = self.concept(row.columns, drawn)
        return DrawnSample(row.name, image, noise, texts, concept, draw_seed(rng))

    def draw_caption(self, columns: dict, column: str, rng: np.random.Generator) -> str:
        """The caption of a column, one of several drawn.

        Raises:
            MissingTextError: it has none.
        """
        captions = find_texts(columns.get(column))
        if not captions:
            have = ", ".join(columns) or "nothing"
            where = "is empty" if column in columns else f"is missing: it has {have}"
            raise MissingTextError(f"its {column!r} {where}")
        return draw_one(captions, rng)

    def tags(self, columns: dict, column: str) -> list[str]:
        """The tags of a caption column."""
        return find_texts(columns.get(self.captions.tags_columns.get(column, "")))

    def concept(self, columns: dict, captions: list[str]) -> int:
        """What a row shows, as a number that agrees over processes."""
        value = columns.get(self.concept_column) if self.concept_column else None
        if value is None:
            return stable_number("\n".join(captions))
        return stable_number(json.dumps(value, sort_keys=True, default=str))

    def decode(self, drawn: DrawnSample) -> Sample | SkippedSample:
        """Decode the image."""
        try:
            image = decode_image(drawn.image, self.vary.size, self.vary.least_area)
            pixels = self.vary(image, drawn.seed)
        except BadImageError as error:
            return SkippedSample(drawn.name, str(error))
        return Sample(pixels, drawn.noise, drawn.texts, drawn.concept, drawn.seed)
