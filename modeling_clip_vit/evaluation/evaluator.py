"""Measure a CLIP on an image-text data set: retrieval both ways, and zero-shot classes."""

from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import CLIPModel, CLIPProcessor

from ..data.images import decode_all
from ..data.sources import check_columns, class_names
from ..inference.embedding import embed_pixels, embed_texts
from ..modeling_clip_vit import ClipVitModel
from .retrieval import rank_of_best_match, retrieval_metrics
from .zero_shot import zero_shot_accuracy


@dataclass
class EvaluationSet:
    """One split, decoded: what is asked, what is searched, and what is right.

    Args:
        pixels: uint8, (N, 3, S, S).
        keys: rows with an equal key belong together.
        captions: caption column -> caption of each row.
        labels: class-label column -> (names, label of each row).
    """

    pixels: torch.Tensor
    keys: list
    captions: dict[str, list[str]]
    labels: dict[str, tuple[list[str], torch.Tensor]]


def read_evaluation_set(
    split: Dataset,
    path: str,
    image_size: int,
    image_column: str,
    caption_columns: list[str],
    concept_column: str | None,
    label_columns: list[str],
    max_bad_sample_ratio: float,
) -> EvaluationSet:
    """Decode a split once for all the evaluations of a run.

    Raises:
        DataError: a column is missing, or too many images cannot be decoded.
    """
    check_columns(split, [image_column, *caption_columns], path)
    pixels, rows, _ = decode_all(split, image_column, image_size, path, max_bad_sample_ratio)
    kept = split.select(rows)
    return EvaluationSet(
        pixels=pixels,
        keys=list(kept[concept_column]) if concept_column else rows,
        captions={name: list(kept[name]) for name in caption_columns},
        labels={
            name: (class_names(kept, name, path), torch.tensor(kept[name]))
            for name in label_columns
        },
    )


class Evaluator:
    """Measures a model on splits that were decoded beforehand.

    Args:
        evaluation: the split that is searched and whose captions ask.
        new_concepts: a split of concepts that training never saw: its captions ask, and its images
            lie among those of `evaluation`; None for none.
    """

    def __init__(self, evaluation: EvaluationSet, new_concepts: EvaluationSet | None = None):
        self.evaluation = evaluation
        self.new_concepts = new_concepts

    def __call__(
        self, model: ClipVitModel | CLIPModel, processor: CLIPProcessor, everything: bool = True
    ) -> dict[str, float]:
        """Measure.

        Args:
            model: a CLIP with `get_image_features` and `get_text_features`; put into evaluation
                mode, and back afterwards.
            processor: its tokenizer and the normalisation of its images.
            everything: also what is of interest at the end of training only.

        Returns:
            `set/caption column/direction/metric` -> value.
        """
        was_training = model.training
        model.eval()
        data = self.evaluation
        image_embeds = embed_pixels(model, processor, data.pixels)
        metrics = retrieve("validation", model, processor, data, image_embeds, data)
        if everything:
            for name, (classes, labels) in data.labels.items():
                class_embeds = embed_texts(model, processor.tokenizer, classes)
                scores = zero_shot_accuracy(image_embeds, class_embeds, labels)
                metrics |= {f"zero_shot/{name}/{key}": value for key, value in scores.items()}
            if self.new_concepts is not None:
                gallery = EvaluationSet(
                    torch.cat((self.new_concepts.pixels, data.pixels)),
                    self.new_concepts.keys + data.keys,
                    captions={},
                    labels={},
                )
                new_embeds = embed_pixels(model, processor, self.new_concepts.pixels)
                embeds = torch.cat((new_embeds, image_embeds))
                metrics |= retrieve(
                    "new_concepts", model, processor, self.new_concepts, embeds, gallery
                )
        model.train(was_training)
        return metrics


def retrieve(
    name: str,
    model: ClipVitModel | CLIPModel,
    processor: CLIPProcessor,
    queries: EvaluationSet,
    gallery_embeds: torch.Tensor,
    gallery: EvaluationSet,
) -> dict[str, float]:
    """Retrieval metrics of every caption column, text to image and image to text.

    A text asks once, however many images it belongs to.
    """
    numbers = {key: number for number, key in enumerate(dict.fromkeys(gallery.keys))}
    gallery_ids = torch.tensor([numbers[key] for key in gallery.keys])
    metrics = {}
    for column, captions in queries.captions.items():
        asked = list(dict.fromkeys(zip(captions, queries.keys, strict=True)))
        texts = [caption for caption, _ in asked]
        text_embeds = embed_texts(model, processor.tokenizer, texts)
        text_ids = torch.tensor([numbers[key] for _, key in asked])
        sides = {
            "text_to_image": (text_embeds, gallery_embeds, text_ids, gallery_ids),
        }
        if gallery is queries:
            sides["image_to_text"] = (gallery_embeds, text_embeds, gallery_ids, text_ids)
        for direction, arguments in sides.items():
            ranks = rank_of_best_match(*arguments)
            for key, value in retrieval_metrics(ranks).items():
                metrics[f"{name}/{column}/{direction}/{key}"] = value
    return metrics
