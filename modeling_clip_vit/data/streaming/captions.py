"""The texts of a stream: of a row at a time, and its first ones for a tokenizer to learn from."""

from collections.abc import Sequence
from contextlib import suppress

from ..captions import CaptionOptions, MissingTextError, find_texts, name_classes
from ..files.tars import IMAGE_EXTENSIONS
from ..rows import Row, SkippedSample
from ..sources import open_shards
from ..templates import clean_class_name
from .dealing import Consumer
from .interleave import MixedRows, StoppingStrategy
from .options import StreamOptions


class StreamTexts:
    """The texts of rows, read from the row itself; implements `RowTexts`.

    Args:
        options: which columns, and how they are mixed. A caption may be a list of strings, of which
            one is drawn.
        classes: of the label column in their order, where a source names them.

    Raises:
        DataError: `label_names` has not one for each class.
    """

    def __init__(self, options: CaptionOptions, classes: Sequence[str] = ()):
        self.options, self.classes = options, list(classes)
        self.places = {name: place for place, name in enumerate(classes)}
        #: Set of phrases -> the name of each class in a text.
        self.class_names = name_classes(options, self.classes) if classes else {}

    def find_captions(self, row: Row, column: str) -> list[str]:
        """The captions of a row in a column, at least one.

        Raises:
            MissingTextError: it has none.
        """
        captions = find_texts(row.columns.get(column))
        if captions:
            return captions
        columns = ", ".join(row.columns) or "nothing"
        problem = "is empty" if column in row.columns else f"is missing: it has {columns}"
        if row.columns and set(row.columns) <= {"image", *IMAGE_EXTENSIONS}:
            problem += " (the files of a sample must stand together in a tar: sort it by name)"
        raise MissingTextError(f"its {column!r} {problem}")

    def find_tags(self, row: Row, column: str) -> list[str]:
        """The tags of a row for a caption column."""
        return find_texts(row.columns.get(self.options.tags_columns.get(column, "")))

    def find_class_name(self, row: Row, source: str) -> str:
        """The name of a row's class in a set of phrases.

        Raises:
            MissingTextError: it has no class, or one that the set has no name for.
        """
        column, value = str(self.options.label_column), self.find_class(row)
        if value in self.places:
            return self.class_names[source][self.places[value]]
        names = self.options.label_names.get(source)
        if names is None:
            return clean_class_name(value)
        if value.isdecimal() and int(value) < len(names) and not self.places:
            return str(names[int(value)])
        raise MissingTextError(
            f"its {column!r} is {value!r}, which label_names has no name for: {source!r} has "
            f"{len(names)}"
        )

    def find_class(self, row: Row) -> str:
        """The class of a row, as its source calls it.

        Raises:
            MissingTextError: it has none.
        """
        column = str(self.options.label_column)
        value = row.columns.get(column)
        if column not in row.columns:
            raise MissingTextError(f"its {column!r} is missing: it has {', '.join(row.columns)}")
        if value is None or not str(value).strip():
            raise MissingTextError(f"its {column!r} is empty")
        if not isinstance(value, str | int):
            raise MissingTextError(f"its {column!r} is no class but {type(value).__name__}")
        return str(value).strip()


def find_class_names(
    options: StreamOptions, split: str, column: str | None, image_column: str | None = None
) -> list[str]:
    """The names of the classes of a column, by the first source that has them; else none.

    Raises:
        DataError: a source cannot be opened.
    """
    if column is None:
        return []
    sources = (
        open_shards(path, split, image_column=image_column) for path in options.stream_sources
    )
    return next((names for shards in sources if (names := shards.class_names.get(column))), [])


class StreamCaptions(StreamTexts):
    """The texts of a stream, and its first ones to learn from; implements `Captions`.

    Args:
        stream: its sources.
        split: of each source.
        captions: which columns hold captions.
        image_column: column of images; None to guess it.
        count: rows to learn from, of all sources together.

    Raises:
        DataError: a source cannot be opened, or `label_names` has not one for each class.
    """

    def __init__(
        self,
        stream: StreamOptions,
        split: str,
        captions: CaptionOptions,
        image_column: str | None = None,
        count: int = 100_000,
    ):
        classes = find_class_names(stream, split, captions.label_column, image_column)
        super().__init__(captions, classes)
        self.stream, self.split = stream, split
        self.image_column, self.count = image_column, count

    def corpus(self) -> list[str]:
        """Every distinct caption and phrase, in order, the same on every process."""
        texts = dict.fromkeys(self.options.words_around())
        for names in self.class_names.values():
            texts.update(dict.fromkeys(names))
        columns = [*self.options.caption_columns, *self.options.tags_columns.values()]
        sources = [
            open_shards(path, self.split, self.options.columns(), self.image_column)
            for path in self.stream.stream_sources
        ]
        strategy: StoppingStrategy = "all_exhausted_without_replacement"
        rows = MixedRows(sources, self.stream.weights(), Consumer(), strategy)
        while rows.count < self.count and (placed := rows.read()) is not None:
            row = placed.row
            if isinstance(row, SkippedSample):
                continue
            for column in columns:
                texts.update(dict.fromkeys(find_texts(row.columns.get(column))))
            for source in self.options.phrases():
                with suppress(MissingTextError):
                    texts[self.find_class_name(row, source)] = None
        return list(texts)
