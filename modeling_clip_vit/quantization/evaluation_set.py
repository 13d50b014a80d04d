"""Rows of a dataset to measure the effect of quantisation on."""

from dataclasses import replace
from functools import partial

from ..data.sources import open_dataset
from ..evaluation.dataset import EvaluationSet
from ..evaluation.evaluate import open_evaluation
from ..evaluation.images import ImagesInMemory
from ..evaluation.options import EvaluationOptions


def read_quantization_set(options: EvaluationOptions, image_size: int) -> EvaluationSet:
    """Decode rows of a split to measure the retrieval of a float and of a quantised model on.

    Args:
        options: the dataset, its split and its columns.
        image_size: side of the decoded images.

    Raises:
        DataError: it does not exist, has no captions, or its images cannot be decoded.
    """
    splits = open_dataset(options.dataset, options.image_column)
    options = replace(options, tasks=["retrieval"])
    return open_evaluation(options, splits, partial(ImagesInMemory, size=image_size))
