"""Data to see on what quantisation changes."""

from dataclasses import dataclass

import torch

from ..data.sources import get_split, open_dataset
from ..evaluation.evaluator import EvaluationSet, read_evaluation_set


@dataclass
class DataPlace:
    """Which rows of which data set.

    Args:
        dataset: a folder that `datasets` can open, or the id of a data set on the Hub.
        split: of it.
        image_column: column of images.
        caption_columns: columns of captions.
        concept_column: rows with an equal value belong together; None where each stands for itself.
        num_samples: at most so many rows, spread over the split; 0 for all.
    """

    dataset: str
    split: str
    image_column: str
    caption_columns: list[str]
    concept_column: str | None
    num_samples: int


def read_samples(place: DataPlace, image_size: int) -> EvaluationSet:
    """Decode what `place` names.

    Raises:
        DataError: it is not there, or its images cannot be decoded.
    """
    split = get_split(open_dataset(place.dataset), place.split, place.dataset)
    if 0 < place.num_samples < len(split):
        rows = torch.linspace(0, len(split) - 1, place.num_samples).long().tolist()
        split = split.select(rows)
    return read_evaluation_set(
        split,
        place.dataset,
        image_size,
        place.image_column,
        place.caption_columns,
        place.concept_column,
        [],
        max_bad_sample_ratio=0.05,
    )
