"""Make a text for a sample: which caption, and what goes with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from datasets import Dataset

from .sources import DataError, check_columns
from .templates import check_template


@dataclass
class CaptionOptions:
    """How texts are made from a row.

    Args:
        caption_columns: columns that each hold a caption, such as one for each language.
        caption_sampling: `one` draws one of the columns for each concept and step, `each` makes a
            text from every one.
        tags_columns: for a caption column, the column of further words that belong to it.
        tag_probability: how often tags are added to a caption.
        max_tags: at most so many tags are added.
        templates: for a caption column, phrases with `{}` where the caption goes, such as
            `a photo of {}`: they teach which words of a query say little.
        template_probability: how often a caption is put into one of its column's phrases.
    """

    caption_columns: list[str] = field(default_factory=lambda: ["caption"])
    caption_sampling: str = "one"
    tags_columns: dict[str, str] = field(default_factory=dict)
    tag_probability: float = 0.0
    max_tags: int = 4
    templates: dict[str, list[str]] = field(default_factory=dict)
    template_probability: float = 0.0

    def __post_init__(self):
        if not self.caption_columns:
            raise DataError("caption_columns is empty: name at least one column of captions")
        if self.caption_sampling not in ("one", "each"):
            raise DataError(
                f"caption_sampling={self.caption_sampling!r} is not allowed: one or each"
            )
        for name in ("tag_probability", "template_probability"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"{name}={getattr(self, name)} is not allowed: from 0 to 1")
        for column, phrases in self.templates.items():
            for phrase in phrases:
                check_template(phrase, f"of {column!r}")

    def words_around(self) -> list[str]:
        """The words of all phrases, without the captions that go into them."""
        return [text.replace("{}", "") for phrases in self.templates.values() for text in phrases]


def choose_columns(options: CaptionOptions, rng: np.random.Generator) -> list[str]:
    """The caption columns that a sample's texts come from: one drawn, or each."""
    columns = options.caption_columns
    if options.caption_sampling == "one":
        return [columns[rng.integers(len(columns))]]
    return columns


def vary_caption(
    caption: str,
    column: str,
    tags: Sequence[str],
    options: CaptionOptions,
    rng: np.random.Generator,
) -> str:
    """A caption, now and then in one of its column's phrases or with some of its tags."""
    phrases = options.templates.get(column, [])
    if phrases and rng.random() < options.template_probability:
        caption = phrases[rng.integers(len(phrases))].replace("{}", caption)
    if not tags or rng.random() >= options.tag_probability:
        return caption
    count = rng.integers(1, min(options.max_tags, len(tags)) + 1)
    return ", ".join([caption, *rng.choice(tags, size=count, replace=False)])


class CaptionMaker:
    """Makes texts from the rows of one split.

    Args:
        split: the rows.
        options: which columns, and how they are mixed.
        path: name of the data set in messages.

    Raises:
        DataError: a column is missing, or a caption is empty.
    """

    def __init__(self, split: Dataset, options: CaptionOptions, path: str):
        check_columns(split, [*options.caption_columns, *options.tags_columns.values()], path)
        self.options = options
        self.captions = {name: list(split[name]) for name in options.caption_columns}
        self.tags = {name: list(split[column]) for name, column in options.tags_columns.items()}
        for name, captions in self.captions.items():
            for row, caption in enumerate(captions):
                if not isinstance(caption, str) or not caption.strip():
                    raise DataError(
                        f"row {row} of {path!r} has an empty {name!r}: fill it or drop the row"
                    )

    def draw(self, row: int, rng: np.random.Generator) -> list[str]:
        """Texts for a row: one, or one from each column, as the options say."""
        columns = choose_columns(self.options, rng)
        return [self.draw_from(name, row, rng) for name in columns]

    def draw_from(self, column: str, row: int, rng: np.random.Generator) -> str:
        """A text from one caption column, now and then in a phrase or with some of its tags."""
        tags = self.tags[column][row] if column in self.tags else []
        return vary_caption(self.captions[column][row], column, tags, self.options, rng)

    def corpus(self) -> list[str]:
        """Every distinct caption, tag and phrase, in order: what a tokenizer learns from."""
        texts = dict.fromkeys(self.options.words_around())
        for captions in self.captions.values():
            texts.update(dict.fromkeys(captions))
        for rows in self.tags.values():
            for tags in rows:
                texts.update(dict.fromkeys(tags))
        return list(texts)
