"""The classes of a column: their names, and which class each row has."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import ClassLabel, Dataset

from .columns import check_columns
from .errors import DataError

#: The class of a row that has none.
NO_CLASS = -1


@dataclass
class Labels:
    """Classes, and the class of each row.

    Args:
        names: of the classes.
        rows: the class of each row, a place in `names`; `NO_CLASS` for one that has none.
        problems: row -> why it has no class.
    """

    names: list[str]
    rows: list[int]
    problems: dict[int, str] = field(default_factory=dict)


def read_labels(
    split: Dataset, column: str, path: str, names: Sequence[str] | None = None
) -> Labels:
    """The classes of a column of class labels; of texts or whole numbers, each distinct one.

    Args:
        split: the rows.
        column: of the classes.
        path: name of the dataset in messages.
        names: the classes, if another split defines them; None for those found here.

    Raises:
        DataError: the column is not there or holds no classes, or no row has one.
    """
    check_columns(split.column_names, [column], path)
    feature, values = split.features[column], list(split[column])
    if isinstance(feature, ClassLabel):
        defined = list(feature.names or ())
        if not defined:
            raise DataError(f"the class labels of column {column!r} of {path!r} have no names")
        classes, problems = name_class_labels(values, defined, column)
    else:
        classes = [read_name(value, column, path) for value in values]
        defined = sorted_names({name for name in classes if name is not None})
        problems = {row: f"its {column!r} is empty" for row, n in enumerate(classes) if n is None}
    names = list(names or defined)
    places = {name: place for place, name in enumerate(names)}
    for row, name in enumerate(classes):
        if name is not None and name not in places:
            listed = f"{', '.join(names[:10])}{' …' if len(names) > 10 else ''}"
            problems[row] = f"its {column!r} is {name!r}, which is none of the classes: {listed}"
    if len(problems) == len(values) and problems:
        raise DataError(f"no row of {path!r} has a class: of row 0, {problems[0]}")
    return Labels(names, [places.get(str(name), NO_CLASS) for name in classes], problems)


def name_class_labels(
    values: Sequence[int | None], names: Sequence[str], column: str
) -> tuple[list[str | None], dict[int, str]]:
    """The name of each class label, None for one that has none; and row -> why it has none."""
    classes: list[str | None] = []
    problems = {}
    for row, value in enumerate(values):
        if value is not None and 0 <= value < len(names):
            classes.append(names[value])
        else:
            classes.append(None)
            bad = "no class" if value is None else f"the class {value}, of 0 to {len(names) - 1}"
            problems[row] = f"its {column!r} has {bad}"
    return classes, problems


def sorted_names(names: set[str]) -> list[str]:
    """Names in numerical order if all are numbers, else in alphabetical order."""
    if all(name.isdigit() for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def read_name(value: Any, column: str, path: str) -> str | None:
    """The class name that a text or a whole number stands for; None if the value is missing.

    Raises:
        DataError: the value is of a type that cannot be a class.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer():  # as pandas writes whole numbers in a column with empty cells
            return str(int(value))
    if not isinstance(value, str | int):
        raise DataError(
            f"column {column!r} of {path!r} holds {type(value).__name__}, not classes: class "
            "labels, texts or whole numbers"
        )
    return str(value).strip()
