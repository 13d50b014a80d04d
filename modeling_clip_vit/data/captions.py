"""Make a text for a sample: which caption, and what goes with it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .columns import check_columns
from .errors import DataError
from .labels import Labels, read_labels
from .tables import is_clean
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

    def sources(self) -> list[str]:
        """What texts come from: caption columns, and the sets of phrases around class names."""
        return self.caption_columns + (list(self.label_phrases) if self.label_column else [])

    def words_around(self) -> list[str]:
        """The words of all phrases, without the captions that go into them."""
        sets = [*self.templates.values()]
        sets += self.label_phrases.values() if self.label_column else []
        return [phrase.replace("{}", "") for phrases in sets for phrase in phrases]


def set_name(templates: str) -> str:
    """What a set of phrases is called: of a file, its name without the ending."""
    return Path(templates).stem if "." in templates or "/" in templates else templates


def choose_columns(options: CaptionOptions, rng: np.random.Generator) -> list[str]:
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
    """The texts in a text or a list of texts that are not empty and can be encoded."""
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


class CaptionMaker:
    """Makes texts from the rows of one split.

    Args:
        split: the rows.
        options: which columns, and how they are mixed.
        path: name of the dataset in messages.
        names: the classes of the label column, where another split said so.

    Raises:
        DataError: a column is missing, or holds nothing that could be used.
    """

    def __init__(
        self, split: Dataset, options: CaptionOptions, path: str, names: list[str] | None = None
    ):
        check_columns(split, [*options.caption_columns, *options.tags_columns.values()], path)
        options.check_weights()
        self.options = options
        #: Row -> why no text can be made of it.
        self.problems: dict[int, str] = {}
        self.captions = {name: read_captions(split, name, path) for name in options.caption_columns}
        for name, rows in self.captions.items():
            empty = (row for row, texts in enumerate(rows) if not texts)
            self.problems |= dict.fromkeys(empty, f"its {name!r} is empty")
        self.tags = {name: list(split[column]) for name, column in options.tags_columns.items()}
        self.labels: Labels | None = None
        #: Set of phrases -> the name of each class in a text.
        self.class_names: dict[str, list[str]] = {}
        if options.label_column:
            self.labels = read_labels(split, options.label_column, path, names)
            self.class_names = name_classes(options, self.labels.names)
            self.problems |= self.labels.problems

    def draw(self, row: int, rng: np.random.Generator) -> list[str]:
        """Texts for a row: one, or one from each source, as the options say."""
        return self.draw_with_concept(row, rng)[0]

    def draw_with_concept(self, row: int, rng: np.random.Generator) -> tuple[list[str], int]:
        """Texts for a row, and a number that says which captions they were made of."""
        drawn = [self.draw_from(name, row, rng) for name in choose_columns(self.options, rng)]
        return [text for text, _ in drawn], stable_number("\n".join(said for _, said in drawn))

    def draw_from(self, source: str, row: int, rng: np.random.Generator) -> tuple[str, str]:
        """A text from one source, now and then in a phrase or with some of its tags, and the
        caption or class name in it.
        """
        if source in self.class_names:
            name = self.class_name(source, row)
            phrase = draw_one(self.options.label_phrases[source], rng)
            return phrase.replace("{}", name), name
        tags = self.tags[source][row] if source in self.tags else []
        caption = draw_one(self.captions[source][row], rng)
        return vary_caption(caption, source, tags, self.options, rng), caption

    def class_name(self, source: str, row: int) -> str:
        """The name of a row's class, as a set of phrases has it."""
        assert self.labels is not None
        return self.class_names[source][self.labels.rows[row]]

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
        for source in self.class_names:
            phrase = self.options.label_phrases[source][0]
            rows = range(len(self.labels.rows if self.labels else ()))
            texts[source] = [
                "" if row in self.problems else phrase.replace("{}", self.class_name(source, row))
                for row in rows
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
    """The captions of each row; none where it has no text, or one that cannot be written.

    Raises:
        DataError: no row has any.
    """
    captions = [
        [value] if isinstance(value, str) and find_texts(value) else find_texts(value)
        for value in split[column]
    ]
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
        given = options.label_names.get(source)
        if given is not None and len(given) != len(names):
            raise DataError(
                f"label_names has {len(given)} names for {source!r}, but {options.label_column!r} "
                f"has {len(names)} classes"
            )
        result[source] = list(map(str, given)) if given else clean_class_names(names)
    return result
