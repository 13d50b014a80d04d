"""How much quantising each layer alone changes a model."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from torch import nn
from transformers import CLIPProcessor

from ..evaluation.dataset import EvaluationSet
from ..evaluation.images import ImagesInMemory
from ..evaluation.ranking import rank_of_best_match
from ..evaluation.tasks.retrieval import retrieval_metrics
from ..inference.embedding import embed_pixels, embed_texts
from ..modeling_clip_vit import ClipVitModel
from ..utils.figures import figure_style
from .eight_bits import quantize_layers, schemes_for


@dataclass
class Sensitivity:
    """How much quantising one layer changes.

    Args:
        layer: its name, or `all` for all of them together.
        distance: 1 - the mean cosine of its tower's embeddings with those of the float model; for
            `all`, that of the tower with the larger distance.
        recall: R@1, text to image, over all caption columns.
        recall_change: `recall` minus that of the float model.
    """

    layer: str
    distance: float
    recall: float
    recall_change: float


class SampleEmbedder:
    """Embeds samples with a model as it is at the moment.

    Args:
        model: a float model.
        processor: its tokenizer and normalisation.
        samples: what is embedded.
    """

    def __init__(self, model: ClipVitModel, processor: CLIPProcessor, samples: EvaluationSet):
        images = samples.images
        assert isinstance(images, ImagesInMemory), "read_quantization_set decodes them once"
        assert isinstance(images.pixels, torch.Tensor), "to squares"
        self.model, self.processor, self.pixels = model, processor, images.pixels
        keys = [samples.keys[row] for row in images.rows]
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        self.image_ids = torch.tensor([numbers[key] for key in keys])
        self.text_ids = self.image_ids.repeat(len(samples.captions))
        self.captions = [
            samples.example(column, row) for column in samples.captions for row in images.rows
        ]

    def images(self) -> torch.Tensor:
        """Embeddings of the images, (N, P)."""
        return embed_pixels(self.model, self.processor, self.pixels)

    def texts(self) -> torch.Tensor:
        """Embeddings of the captions of all columns, one column after the other."""
        return embed_texts(self.model, self.processor.tokenizer, self.captions)

    def recall(self, images: torch.Tensor, texts: torch.Tensor) -> float:
        """R@1, text to image."""
        ranks = rank_of_best_match(texts, images, self.text_ids, self.image_ids)
        return retrieval_metrics(ranks)["R@1"]


def measure_sensitivity(
    model: ClipVitModel,
    processor: CLIPProcessor,
    samples: EvaluationSet,
    layers: Collection[str],
    mode: str = "dynamic",
    bits: int = 8,
) -> list[Sensitivity]:
    """Quantise one layer at a time.

    Args:
        model: float.
        processor: its processor.
        samples: what is embedded and searched.
        layers: names of layers, as `choose_layers` gives them.
        mode, bits: as in `build_scheme`.

    Returns:
        All layers together, then each, the most sensitive first.
    """
    copied = deepcopy(model).eval()
    embed = SampleEmbedder(copied, processor, samples)
    images, texts = embed.images(), embed.texts()
    before = embed.recall(images, texts)

    def compare(layer: str, new_images: torch.Tensor, new_texts: torch.Tensor) -> Sensitivity:
        distance = max(mean_distance(new_images, images), mean_distance(new_texts, texts))
        recall = embed.recall(new_images, new_texts)
        return Sensitivity(layer, distance, recall, recall - before)

    losses = []
    for layer in layers:
        with quantized(copied, [layer], mode, bits):
            is_image = layer.startswith("vis")  # vision_model, visual_projection
            sides = (embed.images(), texts) if is_image else (images, embed.texts())
            losses.append(compare(layer, *sides))
    with quantized(copied, layers, mode, bits):
        together = compare("all", embed.images(), embed.texts())
    return [together, *sorted(losses, key=lambda loss: (-loss.distance, loss.layer))]


def mean_distance(embeds: torch.Tensor, expected: torch.Tensor) -> float:
    """1 - the mean cosine of embeddings of length 1; 1 if they are not finite."""
    distance = 1 - (embeds.double() * expected.double()).sum(dim=-1).mean().item()
    return distance if distance == distance else 1.0


@contextmanager
def quantized(model: nn.Module, layers: Collection[str], mode: str, bits: int) -> Iterator[None]:
    """The model with some layers quantised, for as long as this lasts."""
    kept = {name: model.get_submodule(name).weight for name in layers}
    try:
        quantize_layers(model, layers, schemes_for(mode, bits))
        yield
    finally:
        for name, weight in kept.items():
            model.get_submodule(name).weight = weight  # type: ignore[assignment]


def as_table(losses: list[Sensitivity]) -> str:
    """A table in Markdown."""
    lines = ["| layer | 1 - cosine | R@1 | change |", "| --- | --- | --- | --- |"]
    lines += [
        f"| {loss.layer} | {loss.distance:.1e} | {100 * loss.recall:.1f} "
        f"| {100 * loss.recall_change:+.1f} |"
        for loss in losses
    ]
    return "\n".join(lines)


@figure_style()
def save_picture(path: Path, losses: list[Sensitivity], most: int = 30):
    """Save a bar chart of the most sensitive layers, image tower and text tower apart."""
    shown = losses[1 : most + 1][::-1]
    figure = Figure(figsize=(9, 1.2 + 0.24 * len(shown)), dpi=110)
    axis = figure.subplots()
    for start, label, color in (
        ("vis", "image tower", "#0969da"),
        ("text", "text tower", "#bf8700"),
    ):
        bars = [(row, loss) for row, loss in enumerate(shown) if loss.layer.startswith(start)]
        axis.barh(
            [row for row, _ in bars],
            [max(loss.distance, 1e-9) for _, loss in bars],
            color=color,
            label=label,
            hatch="//" if start == "text" else None,
        )
    axis.set_yticks(range(len(shown)), [loss.layer for loss in shown], fontsize=7)
    axis.set_xscale("log")
    axis.set_xlabel("1 - cosine to the float embeddings, this layer alone quantised")
    axis.axvline(max(losses[0].distance, 1e-9), color="#57606a", linestyle="--", label="all layers")
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
