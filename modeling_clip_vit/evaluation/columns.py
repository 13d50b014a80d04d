"""Which columns of a split are evaluated."""

from collections.abc import Sequence
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
    """The named columns; those that are not named are guessed from the features of the split.

    Of several columns of class labels, one with a usual name is chosen, or else the first.

    Raises:
        DataError: a named column does not exist, the image column cannot be guessed, or there are
            neither captions nor labels.
    """
    named = [image, *(captions or []), label, concept]
    check_columns(split, [name for name in named if name is not None], path)
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
    if label is None:
        label = find_label_column(kinds) or next(iter(of_kind(kinds, "label")), None)
    if not captions and label is None:
        raise DataError(
            f"{path!r} has no column of captions and none of class labels, so there is nothing to "
            f"measure: name one of {listed(kinds)} with caption_columns or label_column"
        )
    return Columns(image, list(captions), label, concept)
