"""Calibration: whether a model's confidence matches how often it is right.

Shape legend: `N` images, `C` classes, `P` projection.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import exp, log
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

from ...utils.errors import UserError
from ..accuracy import class_score_blocks
from ..embedding import EmbeddedSet
from ..metrics import Metric
from .task import EvaluationTask, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


class CalibrationTask(EvaluationTask):
    """Calibration of the zero-shot classes of every label column, before and after temperature
    scaling.
    """

    name = "calibration"
    title = "Calibration of the zero-shot classes"
    needs = ("embeddings", "class_names")
    headlines = ("ECE",)
    not_shares = ("NLL", "Brier", "temperature", "fitted_NLL", "fitted_Brier")

    def __init__(self) -> None:
        self.diagrams: dict[str, Reliability] = {}

    def measure(self, data: EmbeddedSet) -> list[Metric]:
        """ECE, NLL, Brier score and temperature."""
        metrics = []
        scale, bias = data.similarity
        for column in data.source.labels:
            images = data.labelled(column)
            values, diagrams = measure_calibration(
                images.embeds, images.class_embeds, images.labels, scale, bias, data.options.seed
            )
            metrics += data.metrics(self.name, values, column=column)
            of_column = f"{column}, " if len(data.source.labels) > 1 else ""
            self.diagrams |= {f"{of_column}{name}": one for name, one in diagrams.items()}
        return metrics

    def panels(self, metrics: list[Metric]) -> list[Panel]:
        """Reliability diagrams."""
        return [
            partial(draw_reliability, name=name, diagram=diagram)
            for name, diagram in self.diagrams.items()
        ]


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
        UserError: there are fewer than two images.
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


def draw_reliability(axis: "Axes", name: str, diagram: Reliability):
    """Accuracy by confidence; the diagonal is what it should be (Guo et al., 2017, figure 1)."""
    width = 1 / NUM_BINS
    places = [(number + 0.5) * width for number in range(NUM_BINS)]
    accuracy, share = diagram.accuracy.tolist(), diagram.share.tolist()
    axis.bar(places, accuracy, width=width, edgecolor="white", label="accuracy")
    axis.bar(places, share, width=0.35 * width, color="0.3", label="share of images")
    confidence = diagram.confidence[diagram.share > 0].tolist()
    axis.plot(confidence, confidence, "r.", label="mean confidence")
    axis.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    title = f"reliability, {name}: ECE {100 * diagram.error():.1f} %"
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=7, loc="upper left")
