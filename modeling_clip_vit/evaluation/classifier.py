"""Measure a model with a class head: how often the right class is first, or among the first five.

Shape legend: `N` images, `S` side in pixels, `C` classes.
"""

import torch

from ..data.transforms import normalize
from ..inference.embedding import check_finite
from ..modeling_clip_vit import ClipVitForImageClassification
from .metrics import Metric, make_metrics


class ClassEvaluator:
    """Measures a classifier on a split that was decoded beforehand.

    Args:
        split: its name.
        pixels: uint8, (N, 3, S, S).
        labels: class of each image, (N,).
    """

    def __init__(self, split: str, pixels: torch.Tensor, labels: torch.Tensor):
        self.split, self.pixels, self.labels = split, pixels, labels

    def __call__(
        self, model: ClipVitForImageClassification, processor, everything: bool = True
    ) -> list[Metric]:
        """Measure.

        Args:
            model: put into evaluation mode, and back afterwards.
            processor: the image processor, for its normalisation.
            everything: without meaning here; `Evaluator` takes it.

        Returns:
            `top1_accuracy`, `top5_accuracy` where there are more than five classes, and
            `majority`, what always guessing the commonest would give.
        """
        was_training = model.training
        model.eval()
        logits_NC = check_finite(classify_pixels(model, processor, self.pixels), "images")
        model.train(was_training)
        values = {"top1_accuracy": top_accuracy(logits_NC, self.labels, 1)}
        if logits_NC.shape[1] > 5:
            values["top5_accuracy"] = top_accuracy(logits_NC, self.labels, 5)
        values["majority"] = self.labels.bincount().max().item() / len(self.labels)
        return make_metrics(values, "classification", self.split)


@torch.inference_mode()
def classify_pixels(
    model: ClipVitForImageClassification, processor, pixels: torch.Tensor, batch_size: int = 256
) -> torch.Tensor:
    """Logits (N, C) of decoded images, uint8 (N, 3, S, S) of the model's size, on the CPU."""
    parts = []
    for batch in pixels.split(batch_size):
        values = normalize(batch.float() / 255, processor.image_mean, processor.image_std)
        parts.append(model(values.to(model.device, model.dtype)).logits.float().cpu())
    return torch.cat(parts)


def top_accuracy(logits_NC: torch.Tensor, labels: torch.Tensor, count: int) -> float:
    """Share of the images whose class is among the `count` that the model thinks likeliest."""
    best = logits_NC.topk(count, dim=1).indices
    return (best == labels[:, None]).any(dim=1).float().mean().item()
