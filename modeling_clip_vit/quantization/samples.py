"""Data to see on what quantisation changes."""

import torch

from ..data.columns import check_columns
from ..data.sources import get_split, open_dataset
from ..evaluation.evaluator import EvaluationSet, read_evaluation_set


def read_samples(
    path: str,
    split_name: str,
    image_size: int,
    image_column: str,
    caption_columns: list[str],
    concept_column: str | None = None,
    num_samples: int = 0,
) -> EvaluationSet:
    """Decode rows of a split, to measure on.

    Args:
        path: a folder that `datasets` can open, or the id of a dataset on the Hub.
        split_name: of it.
        image_size: side of the decoded images.
        image_column: column of images.
        caption_columns: columns of captions.
        concept_column: rows with an equal value belong together; None where each stands for itself.
        num_samples: maximum number of rows, spread over the split; 0 uses all.

    Raises:
        DataError: it is not there, or its images cannot be decoded.
    """
    split = get_split(open_dataset(path), split_name, path)
    if concept_column is not None:
        check_columns(split, [concept_column], path)
    if 0 < num_samples < len(split):
        split = split.select(torch.linspace(0, len(split) - 1, num_samples).long().tolist())
    return read_evaluation_set(
        split_name,
        split,
        path,
        image_size,
        image_column,
        caption_columns,
        concept_column,
        [],
        max_bad_sample_ratio=0.05,
    )
