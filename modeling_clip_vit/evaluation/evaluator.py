"""Measure a CLIP on an image-text dataset: retrieval both ways, and zero-shot classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from datasets import Dataset
from transformers import CLIPModel, CLIPProcessor

from ..data.captions import find_texts
from ..data.columns import check_columns, read_keys
from ..data.images import decode_all
from ..data.labels import NO_CLASS, read_labels
from ..inference.embedding import check_finite
from ..inference.loading import Encoder, TorchEncoder
from ..modeling_clip_vit import ClipVitModel
from .metrics import Metric, make_metrics
from .retrieval import list_captions, measure_retrieval, rows_without_text
from .zero_shot import average_phrases, class_texts, measure_zero_shot


@dataclass
class EvaluationSet:
    """One decoded split: the queries, the gallery, and which matches are right.

    Args:
        split: its name.
        pixels: uint8, (N, 3, S, S).
        keys: rows with an equal key belong together.
        captions: caption column -> the query texts, and the key that each asks for.
        examples: caption column -> a caption of each row.
        labels: class-label column -> (names, label of each row).
    """

    split: str
    pixels: torch.Tensor
    keys: list
    captions: dict[str, tuple[list[str], list]]
    examples: dict[str, list[str]]
    labels: dict[str, tuple[list[str], torch.Tensor]]


def read_evaluation_set(
    name: str,
    split: Dataset,
    path: str,
    image_size: int,
    image_column: str,
    caption_columns: list[str],
    concept_column: str | None,
    label_columns: list[str],
    max_bad_sample_ratio: float,
) -> EvaluationSet:
    """Decode the split of that name once for all the evaluations of a run.

    Raises:
        DataError: a column is missing, too many images cannot be decoded, or a row has no caption
            or no class.
    """
    check_columns(split, [image_column, *caption_columns], path)
    problems = rows_without_text(split, caption_columns)
    pixels, rows, _ = decode_all(
        split, image_column, image_size, path, max_bad_sample_ratio, problems
    )
    keys = read_keys(split, concept_column, path)
    columns = {column: list(split[column]) for column in caption_columns}
    labels = {column: read_labels(split, column, path) for column in label_columns}
    return EvaluationSet(
        split=name,
        pixels=pixels,
        keys=[keys[row] for row in rows],
        captions={n: list_captions(texts, keys, rows, n, path) for n, texts in columns.items()},
        examples={
            column: [next(iter(find_texts(texts[row])), "") for row in rows]
            for column, texts in columns.items()
        },
        labels={
            column: (classes.names, torch.tensor(classes.rows)[rows])
            for column, classes in labels.items()
        },
    )


class Evaluator:
    """Measures a model on splits that were decoded beforehand.

    Args:
        evaluation: the split whose images are the gallery and whose captions are the queries.
        new_concepts: a split of concepts that training never saw: its captions are queries, and its
            images join those of `evaluation` in the gallery; None for no such split.
        template_sets: phrases around class names, as `class_texts` takes them.
    """

    def __init__(
        self,
        evaluation: EvaluationSet,
        new_concepts: EvaluationSet | None = None,
        template_sets: Sequence[str] = ("plain",),
    ):
        self.evaluation = evaluation
        self.new_concepts = new_concepts
        self.template_sets = template_sets

    def __call__(
        self, model: ClipVitModel | CLIPModel, processor: CLIPProcessor, everything: bool = True
    ) -> list[Metric]:
        """Measure.

        Args:
            model: a CLIP with `get_image_features` and `get_text_features`; put into evaluation
                mode, and back afterwards.
            processor: its tokenizer and the normalisation of its images.
            everything: also what is of interest at the end of training only.
        """
        was_training = model.training
        model.eval()
        metrics = self.measure(TorchEncoder(model, processor), everything)
        model.train(was_training)
        return metrics

    def measure(self, encoder: Encoder, everything: bool = True) -> list[Metric]:
        """Measure a CLIP as it stands, or an export of one; otherwise as a call does."""
        data = self.evaluation
        image_embeds = check_finite(encoder.encode_pixels(data.pixels), "images")
        metrics = retrieve("retrieval", encoder, data, image_embeds, data)
        if everything:
            for name, (classes, labels) in data.labels.items():
                texts = class_texts(classes, self.template_sets)
                text_embeds = encoder.encode_text(texts)
                class_embeds = average_phrases(text_embeds, len(classes))
                has_class = labels != NO_CLASS
                scores = measure_zero_shot(image_embeds[has_class], class_embeds, labels[has_class])
                metrics += make_metrics(scores, "zero_shot", data.split, of=name)
            if self.new_concepts is not None:
                gallery = EvaluationSet(
                    data.split,
                    torch.cat((self.new_concepts.pixels, data.pixels)),
                    self.new_concepts.keys + data.keys,
                    captions={},
                    examples={},
                    labels={},
                )
                new_embeds = encoder.encode_pixels(self.new_concepts.pixels)
                embeds = torch.cat((new_embeds, image_embeds))
                metrics += retrieve("new_concepts", encoder, self.new_concepts, embeds, gallery)
        return metrics


def retrieve(
    task: str,
    encoder: Encoder,
    queries: EvaluationSet,
    gallery_embeds: torch.Tensor,
    gallery: EvaluationSet,
) -> list[Metric]:
    """Retrieval metrics of every caption column, text to image and image to text.

    A text asks once, however many images it belongs to.
    """
    numbers = {key: number for number, key in enumerate(dict.fromkeys(gallery.keys))}
    gallery_ids = torch.tensor([numbers[key] for key in gallery.keys])
    metrics: list[Metric] = []
    for column, (texts, keys) in queries.captions.items():
        text_embeds = check_finite(encoder.encode_text(texts), "texts")
        text_ids = torch.tensor([numbers[key] for key in keys])
        sides = {
            "text_to_image": (text_embeds, gallery_embeds, text_ids, gallery_ids),
        }
        if gallery is queries:
            has_text = torch.isin(gallery_ids, text_ids)
            asking = gallery_embeds[has_text], gallery_ids[has_text]
            sides["image_to_text"] = (asking[0], text_embeds, asking[1], text_ids)
        for direction, arguments in sides.items():
            values = measure_retrieval(*arguments)
            metrics += make_metrics(values, task, queries.split, of=column, direction=direction)
    return metrics
