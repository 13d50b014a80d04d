"""Zero-shot classification: the class whose name is closest to the image.

Shape legend: `N` images, `C` classes, `T` phrases, `P` projection.
"""

from collections.abc import Iterator, Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from ..data.templates import clean_class_names, load_templates
from .retrieval import rows_at_once


def class_texts(names: Sequence[str], template_sets: Sequence[str]) -> list[str]:
    """Every class name in every phrase: those of the first class first.

    Args:
        names: of the classes, as a dataset has them.
        template_sets: sets of phrases as `load_templates` knows them; their phrases are one
            ensemble.

    Raises:
        DataError: there is no such set.
    """
    phrases = list(dict.fromkeys(p for name in template_sets for p in load_templates(name)))
    return [p.replace("{}", name) for name in clean_class_names(names) for p in phrases]


def average_phrases(text_embeds: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Embeddings of classes: the mean of those of their phrases, brought back to length 1, (C, P).

    As Radford et al. (2021, section 3.1.4) ensemble prompts.

    Args:
        text_embeds: of `class_texts`, of length 1, (C * T, P).
        num_classes: C.
    """
    if len(text_embeds) == num_classes:
        return text_embeds
    return F.normalize(text_embeds.unflatten(0, (num_classes, -1)).mean(dim=1), dim=-1)


def class_score_blocks(
    image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Cosine similarities of some images at a time to all classes, and their labels."""
    size = rows_at_once(len(class_embeds))
    for images, some in zip(image_embeds.split(size), labels.split(size), strict=True):
        yield images @ class_embeds.t(), some


def measure_zero_shot(
    image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """How often the right class comes first; a tie counts against the model.

    Args:
        image_embeds: of length 1, (N, P).
        class_embeds: of length 1, (C, P).
        labels: class of each image, (N,).

    Returns:
        `accuracy`; `majority`, what always guessing the commonest class would give;
        `mean_per_class_recall`, over the classes that there are images of; and where there are
        more than five classes `accuracy_top_5`.
    """
    ranks = []
    for scores, some in class_score_blocks(image_embeds, class_embeds, labels):
        right = scores.gather(1, some[:, None])
        ranks.append((scores >= right).sum(dim=1) - 1)  # the right one is not before itself
    ranks_N = torch.cat(ranks)
    metrics = measure_right(ranks_N == 0, labels)
    if len(class_embeds) > 5:
        metrics["accuracy_top_5"] = (ranks_N < 5).float().mean().item()
    return metrics


def measure_predictions(predicted: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """`accuracy`, `majority` and `mean_per_class_recall` of predicted classes, (N,) both."""
    return measure_right(predicted == labels, labels)


def measure_right(right: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """`measure_predictions` from whether each image is classified correctly, (N,)."""
    total = labels.bincount()
    recalls = labels[right].bincount(minlength=len(total))[total > 0] / total[total > 0]
    return {
        "accuracy": right.float().mean().item(),
        "majority": total.max().item() / len(labels),
        "mean_per_class_recall": recalls.mean().item(),
    }
