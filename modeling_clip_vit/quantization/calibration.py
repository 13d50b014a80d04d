"""Data to find ranges from, and to see what quantisation changes."""

from dataclasses import dataclass

import torch
from transformers import CLIPProcessor

from ..data.sources import get_split, open_dataset
from ..data.transforms import normalize
from ..evaluation.evaluator import EvaluationSet, read_evaluation_set
from .static import Batch


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


def calibration_batches(
    samples: EvaluationSet, processor: CLIPProcessor, batch_size: int = 16
) -> dict[str, list[Batch]]:
    """Inputs of each of `static.PARTS`: every image once, and every caption of every column."""
    images, texts = processor.image_processor, processor.tokenizer
    pixels = normalize(samples.pixels.float() / 255, images.image_mean, images.image_std)
    captions = [caption for column in samples.examples.values() for caption in column]
    tokens = [
        dict(
            texts(
                captions[start : start + batch_size],
                padding=True,
                truncation=True,
                return_tensors="pt",
            )
        )
        for start in range(0, len(captions), batch_size)
    ]
    return {
        "vision_model": [{"pixel_values": part} for part in pixels.split(batch_size)],
        "text_model": [
            {name: batch[name] for name in ("input_ids", "attention_mask")} for batch in tokens
        ],
    }
