"""The classes of a column: their names, and which class each row has."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from datasets import ClassLabel, Dataset

from .columns import check_columns
from .errors import DataError


@dataclass
class Labels:
    """Classes and who has them.

    Args:
        names: of the classes.
        rows: the class of each row, a place in `names`.
    """

    names: list[str]
    rows: list[int]


def read_labels(
    split: Dataset, column: str, path: str, names: Sequence[str] | None = None
) -> Labels:
    """The classes of a column of class labels; of texts or whole numbers, each distinct one.

    Args:
        split: the rows.
        column: of the classes.
        path: name of the data set in messages.
        names: the classes that there are, where another split said so; None for those found here.

    Raises:
        DataError: the column is not there or holds no classes, a row has none, or one that is not
            among the names.
    """
    check_columns(split, [column], path)
    feature, values = split.features[column], list(split[column])
    if isinstance(feature, ClassLabel):
        own = list(feature.names or ())
        if not own:
            raise DataError(f"the class labels of column {column!r} of {path!r} have no names")
        for row, value in enumerate(values):
            if value is None or not 0 <= value < len(own):
                raise DataError(
                    f"row {row} of {path!r} has the {column!r} {value}, which is no class: they "
                    f"are 0 to {len(own) - 1}; drop the row"
                )
        values = [own[value] for value in values]
    else:
        values = [read_name(value, row, column, path) for row, value in enumerate(values)]
        own = sorted(set(values), key=lambda name: (not name.isdigit(), len(name), name))
        if not all(name.isdigit() for name in own):
            own.sort()
    names = list(names or own)
    places = {name: place for place, name in enumerate(names)}
    for row, value in enumerate(values):
        if value not in places:
            raise DataError(
                f"row {row} of {path!r} has the {column!r} {value!r}, which is none of the classes "
                f"of the other split: {', '.join(names[:10])}{' …' if len(names) > 10 else ''}"
            )
    return Labels(names, [places[value] for value in values])


def read_name(value: Any, row: int, column: str, path: str) -> str:
    """The name of a class that a text or a whole number says.

    Raises:
        DataError: it says none.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        raise DataError(f"row {row} of {path!r} has no {column!r}: fill it or drop the row")
    if not isinstance(value, str | int):
        raise DataError(
            f"column {column!r} of {path!r} holds {type(value).__name__}, not classes: class "
            "labels, texts or whole numbers"
        )
    return str(value).strip()
