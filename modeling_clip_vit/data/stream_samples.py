"""From a row of a stream to a sample: draw its text first, decode its image later.

Shape legend: `S` side in pixels.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .batches import draw_seed
from .captions import (
    CaptionOptions,
    choose_columns,
    draw_one,
    find_texts,
    name_classes,
    stable_number,
    vary_caption,
)
from .errors import DataError
from .images import BadImageError, decode_image
from .places import locate_image
from .policies import SampleAugment
from .rows import Row, Sample, SkippedSample
from .tars import IMAGE_EXTENSIONS
from .templates import clean_class_name
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


class StreamClasses:
    """The classes of a stream's rows, as texts call them.

    Args:
        options: which column has them, and what they are called in which set of phrases.
        names: of the classes in their order, where a source says them.

    Raises:
        DataError: `label_names` has not one for each class.
    """

    def __init__(self, options: CaptionOptions, names: Sequence[str] = ()):
        self.options = options
        self.places = {name: place for place, name in enumerate(names)}
        self.names = name_classes(options, list(names)) if names else {}

    def name(self, columns: dict, source: str) -> str:
        """The name of a row's class in the phrases of a set.

        Raises:
            MissingTextError: it has no class, or one that the set has no name for.
        """
        column, value = str(self.options.label_column), self.read(columns)
        if value in self.places:
            return self.names[source][self.places[value]]
        given = self.options.label_names.get(source)
        if given is None:
            return clean_class_name(value)
        if value.isdecimal() and int(value) < len(given) and not self.places:
            return str(given[int(value)])
        raise MissingTextError(
            f"its {column!r} is {value!r}, which label_names has no name for: {source!r} has "
            f"{len(given)}"
        )

    def read(self, columns: dict) -> str:
        """The class of a row, as its source calls it.

        Raises:
            MissingTextError: it has none.
        """
        column = str(self.options.label_column)
        value = columns.get(column)
        if column not in columns:
            raise MissingTextError(f"its {column!r} is missing: it has {', '.join(columns)}")
        if value is None or not str(value).strip():
            raise MissingTextError(f"its {column!r} is empty")
        if not isinstance(value, str | int):
            raise MissingTextError(f"its {column!r} is no class but {type(value).__name__}")
        return str(value).strip()


class SampleMaker:
    """Makes samples of rows.

    All that is random in a sample comes from the seed, the epoch, the pass within the epoch and
    the row's name, so a sample is the same in any batch, worker or process.

    Args:
        image_column: column of images.
        captions: which columns hold captions, and how texts are made of them. A caption may be a
            list of strings, of which one is drawn.
        concept_column: rows with an equal value are positives of each other; where it is null,
            rows of an equal class are, or without classes those with equal captions.
        image_size: side S of the pixels.
        seed: of everything random.
        augment: how images are varied one at a time; None for not at all.
        class_names: of the classes of the label column, where a source says them.

    Raises:
        DataError: `label_names` has not one for each class.
    """

    def __init__(
        self,
        image_column: str,
        captions: CaptionOptions,
        concept_column: str | None,
        image_size: int,
        seed: int,
        augment: AugmentOptions | None = None,
        class_names: Sequence[str] = (),
    ):
        self.image_column = image_column
        self.captions = captions
        self.concept_column = concept_column
        self.vary = SampleAugment(augment or AugmentOptions(), image_size)
        self.seed = seed
        #: Sets of phrases that class names go into, if there are classes.
        self.phrases = captions.label_phrases if captions.label_column else {}
        self.classes = StreamClasses(captions, class_names)

    def columns(self) -> list[str]:
        """Every column that a sample is made of."""
        columns = [self.image_column, *self.captions.caption_columns]
        columns += self.captions.tags_columns.values()
        return columns + [
            name for name in (self.captions.label_column, self.concept_column) if name
        ]

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
                self.vary_caption(row.columns, column, caption, rng)
                for column, caption in zip(columns, drawn, strict=True)
            ]
            "".join(texts).encode()
        except (MissingTextError, UnicodeEncodeError) as error:
            return SkippedSample(row.name, str(error))
        image = row.columns.get(self.image_column)
        if image is None:
            have = ", ".join(row.columns) or "nothing"
            return SkippedSample(row.name, f"there is no {self.image_column!r}: it has {have}")
        if isinstance(image, str):
            try:
                image = locate_image(image, row.folder)
            except DataError as error:
                return SkippedSample(row.name, str(error))
        concept = self.concept(row.name, row.columns, drawn)
        return DrawnSample(row.name, image, noise, texts, concept, draw_seed(rng))

    def draw_caption(self, columns: dict, column: str, rng: np.random.Generator) -> str:
        """The caption of a column, one of several drawn, or a class as a set of phrases calls it.

        Raises:
            MissingTextError: it has none.
        """
        if column in self.phrases:
            return self.classes.name(columns, column)
        captions = find_texts(columns.get(column))
        if not captions:
            have = ", ".join(columns) or "nothing"
            where = "is empty" if column in columns else f"is missing: it has {have}"
            if columns and set(columns) <= {"image", *IMAGE_EXTENSIONS}:
                where += " (the files of a sample must stand together in a tar: sort it by name)"
            raise MissingTextError(f"its {column!r} {where}")
        return draw_one(captions, rng)

    def vary_caption(
        self, columns: dict, source: str, caption: str, rng: np.random.Generator
    ) -> str:
        """A caption in a phrase or with tags, as the options say; a class name in a phrase."""
        if source in self.phrases:
            return draw_one(self.phrases[source], rng).replace("{}", caption)
        return vary_caption(caption, source, self.tags(columns, source), self.captions, rng)

    def tags(self, columns: dict, column: str) -> list[str]:
        """The tags of a caption column."""
        return find_texts(columns.get(self.captions.tags_columns.get(column, "")))

    def concept(self, name: str, columns: dict, captions: list[str]) -> int:
        """The concept of a row, as a number that is the same in every process."""
        column = self.concept_column or self.captions.label_column
        if column is None:
            return stable_number("\n".join(captions))
        value = columns.get(column)
        if value is None or value != value:  # what is missing is equal to nothing
            return stable_number(f"row {name}")
        return stable_number(json.dumps(value, sort_keys=True, default=str))

    def decode(self, drawn: DrawnSample) -> Sample | SkippedSample:
        """Decode the image."""
        try:
            image = decode_image(drawn.image, self.vary.size, self.vary.least_area)
            pixels = self.vary(image, drawn.seed)
        except BadImageError as error:
            return SkippedSample(drawn.name, str(error))
        return Sample(pixels, drawn.noise, drawn.texts, drawn.concept, drawn.seed)
