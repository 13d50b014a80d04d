"""What the page shows and filters of a picture besides its name: columns of the index."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.types as types

from ..utils.errors import UserError

#: A column of texts with up to this many values becomes a list to choose from; one
#: with more becomes a field to search in.
MOST_CATEGORIES = 60
MOST_FOLDERS = 400
#: Shown only if the user says so: a page may be published, and few people want their home on it.
PLACE_COLUMNS = ("latitude", "longitude")
#: Columns that make no sense as a field: what they say is shown elsewhere, or means nothing to
#: people.
OTHER_COLUMNS = (
    *("id", "path", "root", "name", "caption", "vector", "size", "modified", "sha256"),
    *("pixel_hash", "perceptual_hash", "width", "height", "error"),
)


@dataclass
class Field:
    """A column as the page has it.

    Args:
        name: of the column; `folder` is the folder of the path.
        kind: `category`, `folder`, `text`, `number` or `date`.
        values: what a category or folder may be.
        min, max: of numbers and dates (ISO 8601).
    """

    name: str
    kind: str
    values: list[str] | None = None
    min: float | str | None = None
    max: float | str | None = None

    def to_json(self) -> dict[str, Any]:
        """Its entries that are set."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def choose_columns(available: Sequence[str], chosen: Sequence[str] | None) -> list[str]:
    """The columns to show.

    Args:
        available: columns of the index.
        chosen: by the user, `folder` included; None for all but places.

    Raises:
        UserError: there is no such column, or it is not one to show.
    """
    allowed = ["folder", *(name for name in available if name not in OTHER_COLUMNS)]
    if chosen is None:
        return [name for name in allowed if name not in PLACE_COLUMNS]
    for name in chosen:
        if name not in allowed:
            raise UserError(f"--columns has {name!r}, and can have {', '.join(allowed)}")
    return list(chosen)


def describe_columns(
    table: pa.Table, names: Sequence[str]
) -> tuple[list[Field], dict[str, list[Any]]]:
    """The fields of columns, and their values in JSON's types; null for a missing one.

    A column that is empty, or has the same value for every picture, is left out.
    """
    fields, values = [], {}
    for name in names:
        column = read_folders(table) if name == "folder" else readable(table[name])
        is_date = name != "folder" and types.is_temporal(table[name].type)
        field = None if column is None else describe(name, column, is_date)
        if column is not None and field is not None:
            fields.append(field)
            values[name] = column
    return fields, values


def read_folders(table: pa.Table) -> list[str | None]:
    """The folder of each path, below the root."""
    return [folder_of(path) for path in table["path"].to_pylist()]


def folder_of(path: str | None) -> str | None:
    """The folder of a path below the root; None for a path directly in the root."""
    folder = str(PurePosixPath(path or "").parent)
    return None if folder == "." else folder


def readable(column: pa.ChunkedArray) -> list[Any] | None:
    """A column as JSON has it; None for a type that people cannot read."""
    kind = column.type
    if types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if types.is_list(kind) or types.is_large_list(kind):
        if not (types.is_string(kind.value_type) or types.is_large_string(kind.value_type)):
            return None
        return [None if texts is None else ", ".join(texts) for texts in column.to_pylist()]
    if types.is_temporal(kind) and not (types.is_duration(kind) or types.is_time(kind)):
        return [None if moment is None else moment.isoformat() for moment in column.to_pylist()]
    if types.is_floating(kind):
        return [it if it is not None and isfinite(it) else None for it in column.to_pylist()]
    if types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind):
        return column.to_pylist()
    return column.to_pylist() if types.is_integer(kind) else None


def describe(name: str, values: list[Any], is_date: bool) -> Field | None:
    """What kind of field some values make; None if they do not differ."""
    present = [value for value in values if value is not None]
    distinct = set(present)
    if len(distinct) < 2 and len(present) in (0, len(values)):
        return None
    if name == "folder":
        folders = sorted({str(it) for folder in distinct for it in with_parents(folder)})
        return (
            Field(name, "folder", folders) if len(folders) <= MOST_FOLDERS else Field(name, "text")
        )
    if isinstance(present[0], bool):
        return Field(name, "category", sorted(str(value).lower() for value in distinct))
    if isinstance(present[0], int | float):
        return Field(name, "number", min=min(present), max=max(present))
    if is_date:
        return Field(name, "date", min=min(present), max=max(present))
    is_category = len(distinct) <= MOST_CATEGORIES and max(map(len, distinct)) <= 80
    return Field(name, "category", sorted(distinct)) if is_category else Field(name, "text")


def with_parents(folder: str) -> list[PurePosixPath]:
    """A folder and the folders above it, without the root."""
    path = PurePosixPath(folder)
    return [path, *(parent for parent in path.parents if str(parent) != ".")]
