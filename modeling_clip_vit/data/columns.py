"""Which column of a dataset holds the images, which the captions, and which the classes."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value

from .errors import DataError

logger = logging.getLogger(__name__)

#: What columns of images are called, the surest name first.
IMAGE_NAMES = ("image", "img", "picture", "photo", "jpg", "jpeg", "png", "webp", "bytes")
#: What columns of paths to images are called.
PATH_NAMES = (
    *("file_name", "filename", "image_path", "img_path", "image_file", "filepath", "file_path"),
    *("path", "file", *IMAGE_NAMES),
)
#: What columns of captions are called; `caption_en` counts as `caption`.
CAPTION_NAMES = (
    *("caption", "captions", "text", "texts", "txt", "sentence", "sentences"),
    *("description", "title", "alt_text", "alt", "prompt"),
)
LABEL_NAMES = ("label", "labels", "class", "class_name", "category", "fine_label", "target", "cls")


@dataclass(frozen=True)
class Columns:
    """The columns that a run reads.

    Args:
        image_column: of the images.
        caption_columns: of the captions; empty if texts are made of classes.
        label_column: of the classes; None for none.
    """

    image_column: str
    caption_columns: list[str]
    label_column: str | None


def column_kinds(features: Features) -> dict[str, str]:
    """What each column holds: `image`, `bytes`, `text`, `texts`, `label` or `other`."""
    return {name: kind_of_feature(feature) for name, feature in features.items()}


def kind_of_feature(feature: Any) -> str:
    """What a column of this type holds."""
    if isinstance(feature, Image) or (isinstance(feature, Mapping) and "bytes" in feature):
        return "image"
    if isinstance(feature, ClassLabel):
        return "label"
    if isinstance(feature, List):
        return "texts" if kind_of_feature(feature.feature) == "text" else "other"
    if isinstance(feature, Value):
        kinds = {"string": "text", "large_string": "text", "string_view": "text"}
        return kinds.get(feature.dtype, "bytes" if "binary" in feature.dtype else "other")
    return "other"


def kind_of_value(value: Any) -> str:
    """What the column of this value holds, where a stream does not say."""
    if isinstance(value, dict) and "bytes" in value:
        return "image"
    if isinstance(value, list):
        return "texts" if value and all(isinstance(text, str) for text in value) else "other"
    if isinstance(value, bytes):
        return "bytes"
    return "text" if isinstance(value, str) else "other"


def find_image_column(kinds: dict[str, str]) -> str | None:
    """The image column: the only one, or else one with a usual name; None if ambiguous."""
    for kind in ("image", "bytes"):
        columns = of_kind(kinds, kind)
        if columns:
            return columns[0] if len(columns) == 1 else first_named(columns, IMAGE_NAMES)
    return first_named(of_kind(kinds, "text"), PATH_NAMES)


def find_caption_columns(kinds: dict[str, str], image_column: str | None) -> list[str]:
    """The caption columns: those with a usual name, or else the only text column."""
    columns = [name for name in of_kind(kinds, "text", "texts") if name != image_column]
    named = first_named(columns, CAPTION_NAMES)
    if named is not None:
        return [named]
    for start in CAPTION_NAMES:
        several = [name for name in columns if name.lower().startswith(f"{start}_")]
        if several:
            return several
    return columns if len(columns) == 1 and not of_kind(kinds, "label") else []


def find_label_column(kinds: dict[str, str]) -> str | None:
    """The column of classes: the only one of class labels, or one that is called so."""
    labels = of_kind(kinds, "label")
    if labels:
        return labels[0] if len(labels) == 1 else first_named(labels, LABEL_NAMES)
    return first_named(of_kind(kinds, "text", "other"), LABEL_NAMES)


def choose_image_column(kinds: dict[str, str], path: str) -> str:
    """The column of images where none is named.

    Raises:
        DataError: the columns give no hint.
    """
    column = find_image_column(kinds)
    if column is None:
        raise DataError(
            f"cannot tell which column of {path!r} holds the images: set image_column to one of "
            f"{listed(kinds)}"
        )
    return column


def choose_label_column(kinds: dict[str, str], path: str) -> str:
    """The column of classes where none is named.

    Raises:
        DataError: the columns give no hint.
    """
    column = find_label_column(kinds)
    if column is None:
        raise DataError(
            f"cannot tell which column of {path!r} holds the classes: set label_column to one of "
            f"{listed(kinds)}"
        )
    return column


def choose_texts(
    kinds: dict[str, str], image_column: str, path: str
) -> tuple[list[str], str | None]:
    """Choose the source of texts where none is named: caption columns, or else class labels.

    Raises:
        DataError: the columns do not tell.
    """
    captions = find_caption_columns(kinds, image_column)
    if captions:
        return captions, None
    labels = find_label_column(kinds)
    if labels is None and "conversations" in kinds:
        raise DataError(
            f"{path!r} holds conversations (as LLaVA is trained on), not captions: write a table "
            "with a caption for each picture, or set caption_columns"
        )
    if labels is None:
        raise DataError(
            f"cannot tell which column of {path!r} holds the captions: set caption_columns, or "
            f"label_column for classes; it has {listed(kinds)}"
        )
    return [], labels


def of_kind(kinds: dict[str, str], *wanted: str) -> list[str]:
    """The columns that hold this."""
    return [name for name, kind in kinds.items() if kind in wanted]


def first_named(columns: Iterable[str], names: Iterable[str]) -> str | None:
    """The column with the first of these names, in any case; None where none has one."""
    by_name = {column.lower(): column for column in columns}
    return next((by_name[name] for name in names if name in by_name), None)


def listed(kinds: dict[str, str]) -> str:
    """The columns, for a message."""
    return ", ".join(kinds) or "no columns"


def read_keys(split: Dataset, column: str | None, path: str) -> list[Any]:
    """What each row shows: rows with an equal value in a column belong together.

    Args:
        split: the rows.
        column: column of the keys; None gives each row a key of its own.
        path: name of the dataset in messages.

    Returns:
        A key of each row. A row without a value has one of its own.

    Raises:
        DataError: there is no such column.
    """
    if column is None:
        return list(range(len(split)))
    check_columns(split.column_names, [column], path)
    values = list(split[column])
    missing = [row for row, value in enumerate(values) if value is None or value != value]
    if missing:
        logger.warning(
            "%d rows of %s have no %r, such as row %d: each of them stands for itself",
            len(missing),
            path,
            column,
            missing[0],
        )
    for row in missing:
        values[row] = ("row", row)
    return [tuple(value) if isinstance(value, list) else value for value in values]


def check_columns(existing: Sequence[str], columns: Iterable[str], path: str):
    """Reject columns that do not exist.

    Raises:
        DataError: the message lists the existing ones.
    """
    for column in columns:
        if column not in existing:
            raise DataError(f"{path!r} has no column {column!r}: it has {', '.join(existing)}")
