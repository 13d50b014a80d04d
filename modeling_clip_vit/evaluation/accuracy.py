"""Accuracy of predicted classes.

Shape legend: `N` images, `C` classes, `P` projection.
"""

from collections.abc import Iterator

import torch

from .ranking import rows_at_once


def class_score_blocks(
    image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cosine similarities of a block of images at a time to all classes, and their labels."""
    size = rows_at_once(len(class_embeds))
    blocks = zip(image_embeds.split(size), labels.split(size), strict=True)
    for block_embeds, block_labels in blocks:
        yield block_embeds @ class_embeds.t(), block_labels


def measure_predictions(predicted: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """`accuracy`, `majority` and `mean_per_class_recall` of predicted classes, (N,) both."""
    return measure_correct(predicted == labels, labels)


def measure_correct(is_correct: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """`measure_predictions` from whether each image is classified correctly, (N,)."""
    total = labels.bincount()
    recalls = labels[is_correct].bincount(minlength=len(total))[total > 0] / total[total > 0]
    return {
        "accuracy": is_correct.float().mean().item(),
        "majority": total.max().item() / len(labels),
        "mean_per_class_recall": recalls.mean().item(),
    }
