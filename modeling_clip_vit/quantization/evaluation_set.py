"""Rows of a dataset to measure the effect of quantisation on."""

import torch

from ..data.columns import check_columns
from ..data.sources import get_split, open_dataset
from ..evaluation.evaluator import EvaluationSet, read_evaluation_set


def read_quantization_set(
    path: str,
    split_name: str,
    image_size: int,
    image_column: str,
    caption_columns: list[str],
    concept_column: str | None = None,
    num_samples: int = 0,
) -> EvaluationSet:
    """Decode rows of a split to measure a float and a quantised model on.

    Args:
        path: a folder that `datasets` can open, or the id of a dataset on the Hub.
        split_name: split of the dataset.
        image_size: side of the decoded images.
        image_column: column of images.
        caption_columns: columns of captions.
        concept_column: rows with an equal value are correct matches for each other; None if each
            row only matches itself.
        num_samples: maximum number of rows, spread over the split; 0 uses all.

    Raises:
        DataError: it does not exist, or its images cannot be decoded.
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
