"""Classification: how often the class head of a model is right.

Shape legend: `N` images, `C` classes.
"""

import torch

from ..embedding import EmbeddedSet
from ..metrics import Metric
from .task import EvaluationTask


class ClassificationTask(EvaluationTask):
    """Accuracy of a model with a class head, for every label column."""

    name = "classification"
    title = "Classification"
    needs = ("class_head", "labels")
    headlines = ("top1_accuracy", "top5_accuracy")

    def measure(self, data: EmbeddedSet) -> list[Metric]:
        """Top-1 and top-5 accuracy, and the accuracy of predicting the most common class."""
        metrics = []
        several = len(data.source.labels) > 1
        for column in data.source.labels:
            images = data.labelled(column)
            values = measure_classification(images.embeds, images.labels)
            metrics += data.metrics(self.name, values, column=column if several else "")
        return metrics


def measure_classification(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Accuracy of the logits of a class head.

    Args:
        logits: (N, C).
        labels: class of each image, (N,).

    Returns:
        `top1_accuracy`; `top5_accuracy` if there are more than five classes; and `majority`, the
        accuracy of always predicting the most common class.
    """
    values = {"top1_accuracy": top_accuracy(logits, labels, 1)}
    if logits.shape[1] > 5:
        values["top5_accuracy"] = top_accuracy(logits, labels, 5)
    values["majority"] = labels.bincount().max().item() / len(labels)
    return values


def top_accuracy(logits: torch.Tensor, labels: torch.Tensor, count: int) -> float:
    """Share of the images whose class is among the `count` with the highest logits."""
    best = logits.topk(count, dim=1).indices
    return (best == labels[:, None]).any(dim=1).float().mean().item()
