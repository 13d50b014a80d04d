"""Which columns of a split are evaluated, and what they hold."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import ClassLabel, Dataset, Image, List, Value

from ..data.sources import DataError, check_columns, class_names


@dataclass
class Columns:
    """The columns of a split that are used; None or none where it has no such column."""

    image: str
    captions: list[str]
    label: str | None
    concept: str | None


def choose_columns(
    split: Dataset,
    image: str | None,
    captions: Sequence[str] | None,
    label: str | None,
    concept: str | None,
    path: str,
) -> Columns:
    """The columns that are named, and what is not named as the features of the split tell.

    Raises:
        DataError: a named one is not there, there is none of images, or neither captions nor
            labels.
    """
    features = split.features
    named = [image, *(captions or []), label, concept]
    check_columns(split, [name for name in named if name is not None], path)
    if image is None:
        image = next((name for name, kind in features.items() if isinstance(kind, Image)), None)
    if image is None:
        raise DataError(
            f"{path!r} has no column of images: name one of {', '.join(features)} with image_column"
        )
    if captions is None:
        starts = ("caption", "text", "sentence")
        found = [name for name, kind in features.items() if name.startswith(starts)]
        captions = [name for name in found if is_text(features[name])]
    for name in captions:
        if not is_text(features[name]):
            raise DataError(f"column {name!r} of {path!r} holds {features[name]}, not captions")
    if label is None:
        classes = (name for name, kind in features.items() if isinstance(kind, ClassLabel))
        label = next(classes, None)
    if not captions and label is None:
        raise DataError(
            f"{path!r} has no column of captions and none of class labels, so there is nothing to "
            f"measure: name one of {', '.join(features)} with caption_columns or label_column"
        )
    return Columns(image, list(captions), label, concept)


def is_text(feature) -> bool:
    """Whether a column holds a text or several for each row."""
    inner = feature.feature if isinstance(feature, List) else feature
    return isinstance(inner, Value) and inner.dtype in ("string", "large_string")


def read_labels(split: Dataset, column: str, path: str) -> tuple[list[str], torch.Tensor]:
    """Names of the classes, and the class of each row, (N,).

    Raises:
        DataError: the column holds no class labels, or a row has a label that is none of them.
    """
    names = class_names(split, column, path)
    if not names:
        raise DataError(f"the class labels of column {column!r} of {path!r} have no names")
    values = list(split[column])
    for row, value in enumerate(values):
        if value is None or not 0 <= value < len(names):
            raise DataError(
                f"row {row} of {path!r} has label {value} in column {column!r}, which has "
                f"{len(names)} classes, from 0 to {len(names) - 1}: drop such rows"
            )
    return names, torch.tensor(values)
