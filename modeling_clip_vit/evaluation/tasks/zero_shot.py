"""Zero-shot classification: the class whose name is closest to the image.

Shape legend: `N` images, `C` classes, `P` projection.
"""

import torch

from ..accuracy import class_score_blocks, measure_correct
from ..embedding import EmbeddedSet
from ..metrics import Metric
from .task import EvaluationTask


class ZeroShotTask(EvaluationTask):
    """Accuracy of the nearest class name, for every label column."""

    name = "zero_shot"
    title = "Zero-shot classes"
    needs = ("embeddings", "class_names")

    def measure(self, data: EmbeddedSet) -> list[Metric]:
        """Accuracy, mean per-class recall and the majority baseline; top 5 of many classes."""
        metrics = []
        for column in data.source.labels:
            images = data.labelled(column)
            values = measure_zero_shot(images.embeds, images.class_embeds, images.labels)
            metrics += data.metrics(self.name, values, column=column)
        return metrics


def measure_zero_shot(
    image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """How often the right class comes first; a tie counts against the model.

    Args:
        image_embeds: with unit norm, (N, P).
        class_embeds: with unit norm, (C, P).
        labels: class of each image, (N,).

    Returns:
        `accuracy`; `majority`, the accuracy of always predicting the most common class;
        `mean_per_class_recall`, over the classes that have images; and if there are more than five
        classes, `accuracy_top_5`.
    """
    ranks = []
    for scores, block_labels in class_score_blocks(image_embeds, class_embeds, labels):
        right = scores.gather(1, block_labels[:, None])
        ranks.append((scores >= right).sum(dim=1) - 1)  # the right one is not before itself
    ranks_N = torch.cat(ranks)
    metrics = measure_correct(ranks_N == 0, labels)
    if len(class_embeds) > 5:
        metrics["accuracy_top_5"] = (ranks_N < 5).float().mean().item()
    return metrics
