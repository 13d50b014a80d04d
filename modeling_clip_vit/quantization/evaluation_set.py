"""Rows of a dataset to measure the effect of quantisation on."""

from functools import partial

import torch
from datasets import DatasetDict

from ..data.sources import get_split, open_dataset
from ..evaluation.dataset import EvaluationSet
from ..evaluation.evaluate import open_evaluation
from ..evaluation.images import ImagesInMemory
from ..evaluation.options import EvaluationOptions


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
    splits = open_dataset(path, image_column)
    split = get_split(splits, split_name, path)
    if 0 < num_samples < len(split):
        rows = torch.linspace(0, len(split) - 1, num_samples).long().tolist()
        splits = DatasetDict({split_name: split.select(rows)})
    options = EvaluationOptions(
        dataset=path,
        split=split_name,
        image_column=image_column,
        caption_columns=caption_columns,
        label_columns=[],
        concept_column=concept_column,
        tasks=["retrieval"],
        max_bad_sample_ratio=0.05,
    )
    return open_evaluation(options, splits, partial(ImagesInMemory, size=image_size))
