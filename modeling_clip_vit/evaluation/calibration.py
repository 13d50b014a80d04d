"""Calibration: whether a model's confidence matches how often it is right.

Shape legend: `N` images, `C` classes, `P` projection.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import exp, log

import torch
from torch.nn import functional as F  # noqa: N812

from ..utils.errors import UserError
from .zero_shot import class_score_blocks

NUM_BINS = 15
#: Between these a temperature is looked for.
COLDEST, HOTTEST = 1e-2, 1e2

#: Gives logits (n, C) and labels (n,) of some images at a time, from the first to the last.
Blocks = Callable[[], Iterator[tuple[torch.Tensor, torch.Tensor]]]


@dataclass
class Reliability:
    """What a reliability diagram shows, bin by bin of confidence.

    Args:
        confidence: mean confidence of the images in each bin, (bins,).
        accuracy: share of them that are right, (bins,).
        share: share of all images that are in it, (bins,).
    """

    confidence: torch.Tensor
    accuracy: torch.Tensor
    share: torch.Tensor

    def error(self) -> float:
        """Expected calibration error (Naeini et al., 2015; Guo et al., 2017, section 2)."""
        return (self.share * (self.confidence - self.accuracy).abs()).sum().item()


def make_blocks(
    image_embeds: torch.Tensor,
    class_embeds: torch.Tensor,
    labels: torch.Tensor,
    scale: float,
    bias: float | None,
) -> Blocks:
    """Logits as the model makes them of embeddings, float64 and some images at a time."""

    def blocks() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for cosines, some in class_score_blocks(image_embeds, class_embeds, labels):
            yield cosines.double() * scale + (bias or 0.0), some

    return blocks


def measure_calibration(
    image_embeds: torch.Tensor,
    class_embeds: torch.Tensor,
    labels: torch.Tensor,
    scale: float,
    bias: float | None,
    seed: int = 0,
) -> tuple[dict[str, float], dict[str, Reliability]]:
    """Calibration of zero-shot classes.

    With a bias the model was trained with the sigmoid loss: each class then has a probability of
    its own, and a score is a sum over all classes. Without one the classes share a softmax.

    Args:
        image_embeds: of length 1, (N, P).
        class_embeds: of length 1, (C, P).
        labels: class of each image, (N,).
        scale, bias: of the logits.
        seed: seed of the two halves; each is measured at the temperature fitted to the other.

    Returns:
        `ECE`, `NLL` (mean negative log-likelihood) and `Brier` (Brier, 1950: mean squared error of
        the probabilities, summed over the classes) as the model is; the `temperature` that makes
        the likelihood of all images largest (Guo et al., 2017, section 4.2); and the same three
        prefixed with `fitted_`, at temperatures that were not fitted to the image. Also the
        diagrams, of the model as it is and with fitted temperatures.

    Raises:
        ValueError: there are fewer than two images.
    """
    if len(labels) < 2:
        raise UserError("calibration needs at least two images: one half is fitted on the other")
    is_sigmoid = bias is not None

    def take(rows: torch.Tensor) -> Blocks:
        return make_blocks(image_embeds[rows], class_embeds, labels[rows], scale, bias)

    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    halves = [take(half.sort().values) for half in order.tensor_split(2)]
    whole = make_blocks(image_embeds, class_embeds, labels, scale, bias)
    fitted = [fit_temperature(half, is_sigmoid) for half in reversed(halves)]
    as_it_is = score_blocks_at([whole], [1.0], is_sigmoid)
    after = score_blocks_at(halves, fitted, is_sigmoid)
    metrics = {**as_it_is[0], "temperature": fit_temperature(whole, is_sigmoid)}
    metrics |= {f"fitted_{name}": value for name, value in after[0].items()}
    return metrics, {"as it is": as_it_is[1], "temperature fitted": after[1]}


def score_blocks_at(
    parts: list[Blocks], temperatures: list[float], is_sigmoid: bool
) -> tuple[dict[str, float], Reliability]:
    """ECE, NLL, Brier and the diagram of all images of some parts, each at its temperature."""
    confidences, hits, likelihood, squares = [], [], 0.0, 0.0
    for blocks, temperature in zip(parts, temperatures, strict=True):
        for logits, labels in blocks():
            logits = logits / temperature
            probabilities = logits.sigmoid() if is_sigmoid else logits.softmax(dim=1)
            targets = F.one_hot(labels, logits.shape[1]).double()
            squares += (probabilities - targets).square().sum().item()
            if is_sigmoid:
                loss = F.binary_cross_entropy_with_logits(logits, targets, reduction="sum")
            else:
                loss = F.cross_entropy(logits, labels, reduction="sum")
            likelihood += loss.item()
            confidence, predicted = probabilities.max(dim=1)
            confidences.append(confidence)
            hits.append(predicted == labels)
    diagram = bin_confidences(torch.cat(confidences), torch.cat(hits))
    count = sum(map(len, hits))
    scores = {"ECE": diagram.error(), "NLL": likelihood / count, "Brier": squares / count}
    return scores, diagram


def bin_confidences(
    confidence: torch.Tensor, is_right: torch.Tensor, num_bins: int = NUM_BINS
) -> Reliability:
    """Confidences (N,) in bins of equal width, each with its upper edge."""
    bins = (confidence * num_bins).ceil().long().sub(1).clamp(0, num_bins - 1)
    count = bins.bincount(minlength=num_bins)
    total = count.clamp(min=1)
    return Reliability(
        bins.bincount(confidence, minlength=num_bins) / total,
        bins.bincount(is_right.double(), minlength=num_bins) / total,
        count / len(confidence),
    )


def fit_temperature(blocks: Blocks, is_sigmoid: bool) -> float:
    """The temperature of the largest likelihood.

    The log-likelihood is concave in the inverse temperature, so bisection on the sign of its slope
    finds the maximum.
    """
    low, high = log(1 / HOTTEST), log(1 / COLDEST)
    for _ in range(40):
        middle = (low + high) / 2
        if slope(blocks, exp(middle), is_sigmoid) < 0:
            low = middle
        else:
            high = middle
    return exp(-(low + high) / 2)


def slope(blocks: Blocks, inverse: float, is_sigmoid: bool) -> float:
    """Derivative of the negative log-likelihood by the inverse of the temperature."""
    total = 0.0
    for logits, labels in blocks():
        scaled = inverse * logits
        probabilities = scaled.sigmoid() if is_sigmoid else scaled.softmax(dim=1)
        expected = (probabilities * logits).sum()
        total += (expected - logits.gather(1, labels[:, None]).sum()).item()
    return total
