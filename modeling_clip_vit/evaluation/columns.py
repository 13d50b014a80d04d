"""Which columns of a split are evaluated."""

from dataclasses import dataclass

from datasets import Dataset

from ..data.columns import (
    check_columns,
    choose_image_column,
    column_kinds,
    find_caption_columns,
    find_label_column,
    listed,
    of_kind,
)
from ..data.errors import DataError
from .options import EvaluationOptions


@dataclass
class EvaluationColumns:
    """The columns of a split that are used; empty or None where it has no such column."""

    image: str
    captions: list[str]
    labels: list[str]
    concept: str | None


def choose_columns(split: Dataset, options: EvaluationOptions, path: str) -> EvaluationColumns:
    """The named columns; those that are not named are guessed from the features of the split.

    Of several columns of class labels, one with a usual name is chosen, or else the first.

    Args:
        split: the rows.
        options: name the columns, or leave them open.
        path: name of the dataset in messages.

    Raises:
        DataError: a named column does not exist, the image column cannot be guessed, or there are
            neither captions nor labels.
    """
    captions, labels = options.caption_columns, options.label_columns
    image, concept = options.image_column, options.concept_column
    named = [image, *(captions or []), *(labels or []), concept]
    check_columns(split.column_names, [name for name in named if name is not None], path)
    kinds = column_kinds(split.features)
    if image is None:
        image = choose_image_column(kinds, path)
    if captions is None:
        captions = find_caption_columns(kinds, image)
    for name in captions:
        if kinds[name] not in ("text", "texts"):
            raise DataError(
                f"column {name!r} of {path!r} holds {split.features[name]}, not captions"
            )
    if labels is None:
        label = find_label_column(kinds) or next(iter(of_kind(kinds, "label")), None)
        labels = [] if label is None else [label]
    if not captions and not labels:
        raise DataError(
            f"{path!r} has no column of captions and none of class labels, so there is nothing to "
            f"measure: name one of {listed(kinds)} with caption_columns or label_columns"
        )
    return EvaluationColumns(image, list(captions), list(labels), concept)
