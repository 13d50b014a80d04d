"""Draw the texts of a sample: which caption, and what goes with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from datasets import Dataset

from .columns import check_columns
from .errors import DataError, check_option
from .files.tables import is_clean
from .labels import Labels, read_labels
from .rows import Row
from .templates import check_template, clean_class_names, load_templates


@dataclass
class CaptionOptions:
    """How texts are made from a row.

    Args:
        caption_columns: columns with captions, for example one per language. A cell holds a text,
            or a list of texts, of which one is drawn each time. Empty guesses the columns, or uses
            none if `label_column` is set.
        caption_sampling: `one` draws one of the columns for each concept and step, `each` uses all
            of them.
        caption_weights: with `one`, relative frequency of a column; the default is 1.
        tags_columns: maps a caption column to a column of additional keywords.
        tag_probability: how often keywords are appended to a caption.
        max_tags: maximum number of keywords to append.
        templates: maps a caption column to prompt templates, with `{}` in place of the caption,
            such as `a photo of {}`.
        template_probability: how often a caption is put into one of its templates.
        label_column: column with the classes, whose names are turned into captions.
        label_templates: sets of prompt templates for class names (`plain`, `en`, `zh`,
            `open_clip_imagenet`) or text files with one template per line. Each set acts as a
            caption column of that name.
        label_names: maps a set to other names of the classes, in order, for example in another
            language.
    """

    caption_columns: list[str] = field(default_factory=list)
    caption_sampling: str = "one"
    caption_weights: dict[str, float] = field(default_factory=dict)
    tags_columns: dict[str, str] = field(default_factory=dict)
    tag_probability: float = 0.0
    max_tags: int = 4
    templates: dict[str, list[str]] = field(default_factory=dict)
    template_probability: float = 0.0
    label_column: str | None = None
    label_templates: list[str] = field(default_factory=lambda: ["en"])
    label_names: dict[str, list[str | int | float]] = field(default_factory=dict)

    def __post_init__(self):
        is_known = self.caption_sampling in ("one", "each")
        check_option(is_known, self, "caption_sampling", "one or each")
        for name in ("tag_probability", "template_probability"):
            check_option(0 <= getattr(self, name) <= 1, self, name, "from 0 to 1")
        check_option(self.max_tags >= 1, self, "max_tags", "at least 1")
        for column, phrases in self.templates.items():
            for phrase in phrases:
                check_template(phrase, f"of {column!r}")
        #: Set -> its phrases.
        self.label_phrases = {set_name(name): load_templates(name) for name in self.label_templates}
        sets = self.label_phrases
        if not sets or len(sets) < len(self.label_templates):
            raise DataError(
                f"label_templates={self.label_templates} is not allowed: sets of different names"
            )
        for name in self.label_names:
            if name not in sets:
                raise DataError(
                    f"label_names has {name!r}, which is none of label_templates: {', '.join(sets)}"
                )
        self.check_weights()

    def check_weights(self):
        """Reject caption weights that have no meaning.

        Raises:
            DataError: a weight is not above 0, or is for something that is not drawn.
        """
        weights = self.caption_weights
        if weights and self.caption_sampling != "one":
            raise DataError("caption_weights is not allowed with caption_sampling='each'")
        if weights and min(weights.values()) <= 0:
            raise DataError(f"caption_weights={weights} is not allowed: numbers above 0")
        unknown = [name for name in weights if name not in self.sources()]
        if unknown and (self.caption_columns or self.label_column):
            raise DataError(
                f"caption_weights has {unknown[0]!r}, which is not among "
                f"{', '.join(self.sources())}"
            )

    def phrases(self) -> dict[str, list[str]]:
        """The sets of phrases that class names go into, if there are classes."""
        return self.label_phrases if self.label_column else {}

    def sources(self) -> list[str]:
        """What texts come from: caption columns, and the sets of phrases around class names."""
        return [*self.caption_columns, *self.phrases()]

    def columns(self) -> list[str]:
        """Every column that texts are made of."""
        label = [self.label_column] if self.label_column else []
        return [*self.caption_columns, *self.tags_columns.values(), *label]

    def words_around(self) -> list[str]:
        """The words of all phrases, without the captions that go into them."""
        sets = [*self.templates.values(), *self.phrases().values()]
        return [phrase.replace("{}", "") for phrases in sets for phrase in phrases]


def set_name(templates: str) -> str:
    """What a set of phrases is called: of a file, its name without the ending."""
    return Path(templates).stem if "." in templates or "/" in templates else templates


def draw_sources(options: CaptionOptions, rng: np.random.Generator) -> list[str]:
    """Where a sample's texts come from: one of the sources drawn, or each."""
    sources = options.sources()
    if options.caption_sampling == "each":
        return sources
    if not options.caption_weights:
        return [sources[rng.integers(len(sources))]]
    weights = np.array([options.caption_weights.get(name, 1.0) for name in sources])
    return [sources[rng.choice(len(sources), p=weights / weights.sum())]]


def stable_number(text: str) -> int:
    """A hash of a text, below 2^63, that is the same in every process and run."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1


def find_texts(value: Any) -> list[str]:
    """The texts in a text or a list of texts that are not empty and can be encoded, without the
    spaces around them.
    """
    values = value if isinstance(value, list) else [value]
    texts = (text.strip() for text in values if isinstance(text, str))
    return [text for text in texts if text and is_clean(text)]


def draw_one(texts: Sequence[str], rng: np.random.Generator) -> str:
    """Draw one of several texts; a single text consumes no random number."""
    return texts[int(rng.integers(len(texts)))] if len(texts) > 1 else texts[0]


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


class MissingTextError(ValueError):
    """A row without a usable caption or class."""


class RowTexts(Protocol):
    """The captions, tags and class names of rows, read beforehand or from the row itself."""

    options: CaptionOptions

    def find_captions(self, row: Row, column: str) -> list[str]:
        """The captions of a row in a column, at least one.

        Raises:
            MissingTextError: it has none.
        """

    def find_tags(self, row: Row, column: str) -> list[str]:
        """The tags that may be appended to the captions of a column."""

    def find_class_name(self, row: Row, source: str) -> str:
        """The name of a row's class in a set of phrases.

        Raises:
            MissingTextError: it has none.
        """


class Captions(RowTexts, Protocol):
    """The texts of a dataset, and what a tokenizer learns from."""

    @property
    def classes(self) -> list[str]:
        """The classes in their order; empty for none, or where they are not known beforehand."""

    def corpus(self) -> list[str]:
        """Every distinct caption, tag and phrase, in order."""


def draw_texts(texts: RowTexts, row: Row, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Draw texts for a row: one, or one from each source, as the options say.

    Returns:
        The texts; and the caption or the class name that each was made of.

    Raises:
        MissingTextError: the row has none in a source that was drawn.
    """
    sources = draw_sources(texts.options, rng)
    drawn = [draw_text(texts, row, source, rng) for source in sources]
    return [text for text, _ in drawn], [caption for _, caption in drawn]


def draw_text(texts: RowTexts, row: Row, source: str, rng: np.random.Generator) -> tuple[str, str]:
    """A text from one source, now and then in a phrase or with some of its tags, and the caption
    or class name in it.
    """
    options = texts.options
    phrases = options.phrases().get(source)
    if phrases:
        name = texts.find_class_name(row, source)
        return draw_one(phrases, rng).replace("{}", name), name
    caption = draw_one(texts.find_captions(row, source), rng)
    return vary_caption(caption, source, texts.find_tags(row, source), options, rng), caption


class CaptionMaker:
    """The texts of a table's rows, all read beforehand; implements `Captions`.

    Args:
        split: the rows.
        options: which columns, and how they are mixed.
        path: name of the dataset in messages.
        names: the classes of the label column, if another split defines them.

    Raises:
        DataError: a column is missing, or holds nothing that could be used.
    """

    def __init__(
        self, split: Dataset, options: CaptionOptions, path: str, names: list[str] | None = None
    ):
        check_columns(
            split.column_names, [*options.caption_columns, *options.tags_columns.values()], path
        )
        options.check_weights()
        self.options = options
        #: Row -> why no text can be made of it.
        self.problems: dict[int, str] = {}
        self.captions = {name: read_captions(split, name, path) for name in options.caption_columns}
        for name, rows in self.captions.items():
            empty = (row for row, texts in enumerate(rows) if not texts)
            self.problems |= dict.fromkeys(empty, f"its {name!r} is empty")
        self.tags = {
            name: list(map(find_texts, split[column]))
            for name, column in options.tags_columns.items()
        }
        self.labels: Labels | None = None
        #: Set of phrases -> the name of each class in a text.
        self.class_names: dict[str, list[str]] = {}
        if options.label_column:
            self.labels = read_labels(split, options.label_column, path, names)
            self.class_names = name_classes(options, self.labels.names)
            self.problems |= self.labels.problems

    @property
    def classes(self) -> list[str]:
        """The classes in their order; empty for none."""
        return self.labels.names if self.labels else []

    def find_captions(self, row: Row, column: str) -> list[str]:
        """The captions of a row in a column."""
        return self.captions[column][row.number]

    def find_tags(self, row: Row, column: str) -> list[str]:
        """The tags of a row for a caption column."""
        return self.tags[column][row.number] if column in self.tags else []

    def find_class_name(self, row: Row, source: str) -> str:
        """The name of a row's class in a set of phrases."""
        assert self.labels is not None
        return self.class_names[source][self.labels.rows[row.number]]

    def varies(self) -> bool:
        """Whether a row may get other texts each time that they are drawn."""
        options = self.options
        if options.caption_sampling == "one" and len(options.sources()) > 1:
            return True
        has_templates = any(options.templates.values()) and options.template_probability > 0
        has_tags = bool(self.tags) and options.tag_probability > 0
        has_choice = any(len(texts) > 1 for rows in self.captions.values() for texts in rows)
        has_phrases = any(len(phrases) > 1 for phrases in options.phrases().values())
        return has_templates or has_tags or has_choice or has_phrases

    def keys(self) -> list[Any]:
        """What each row shows: its class, or without classes its captions, all of them."""
        if self.labels is not None:
            return list(self.labels.rows)
        rows = zip(*self.captions.values(), strict=True)
        return [tuple(map(tuple, captions)) for captions in rows]

    def plain_texts(self) -> dict[str, list[str]]:
        """Source -> one text of each row, the same every time: its first caption, or the first
        phrase around its class.
        """
        texts = {
            name: [captions[0] if captions else "" for captions in rows]
            for name, rows in self.captions.items()
        }
        classes = self.labels.rows if self.labels else []
        for source, names in self.class_names.items():
            phrase = self.options.label_phrases[source][0]
            texts[source] = [
                "" if row in self.problems else phrase.replace("{}", names[label])
                for row, label in enumerate(classes)
            ]
        return texts

    def corpus(self) -> list[str]:
        """Every distinct caption, tag and phrase, in order: what a tokenizer learns from."""
        texts = dict.fromkeys(self.options.words_around())
        for rows in self.captions.values():
            for captions in rows:
                texts.update(dict.fromkeys(captions))
        for names in self.class_names.values():
            texts.update(dict.fromkeys(names))
        for rows in self.tags.values():
            for tags in rows:
                texts.update(dict.fromkeys(tags))
        return list(texts)


def read_captions(split: Dataset, column: str, path: str) -> list[list[str]]:
    """The captions of each row, none where it has no usable text.

    Raises:
        DataError: no row has any.
    """
    captions = list(map(find_texts, split[column]))
    if not any(captions):
        raise DataError(f"every {column!r} of {path!r} is empty: name another of caption_columns")
    return captions


def name_classes(options: CaptionOptions, names: list[str]) -> dict[str, list[str]]:
    """For each set of phrases, the names of the classes as a text has them.

    Raises:
        DataError: `label_names` has not one for each class.
    """
    result = {}
    for source in options.label_phrases:
        label_names = options.label_names.get(source)
        if label_names is not None and len(label_names) != len(names):
            raise DataError(
                f"label_names has {len(label_names)} names for {source!r}, but "
                f"{options.label_column!r} has {len(names)} classes"
            )
        result[source] = list(map(str, label_names)) if label_names else clean_class_names(names)
    return result
