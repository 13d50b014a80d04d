"""What a classifier on embeddings is; zero-shot classification; what examples are held out.

Shape legend: `B` images, `N` examples, `C` classes, `P` projection.
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch.nn import functional as F  # noqa: N812

#: Temperatures that are tried.
TEMPERATURES = tuple(2.0**power for power in range(-4, 8))


class Examples(NamedTuple):
    """Labelled images that a classifier is made of.

    Args:
        embeds: with unit norm, (N, P).
        labels: class of each, (N,).
    """

    embeds: torch.Tensor
    labels: torch.Tensor

    def take(self, rows: torch.Tensor) -> "Examples":
        """Some of them, by a mask or by their numbers."""
        return Examples(self.embeds[rows], self.labels[rows])


class Classifier(Protocol):
    """Classifies embedded images."""

    @property
    def parameters(self) -> dict[str, float]:
        """What was chosen for it by held-out examples."""

    def logits(self, embeds: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of images (B, P) with unit norm."""

    def probabilities(self, embeds: torch.Tensor) -> torch.Tensor:
        """Probabilities (B, C) of images (B, P) with unit norm."""


@dataclass(frozen=True)
class ZeroShot:
    """Cosines with the class names, scaled by the model (Radford et al., 2021, section 3.1).

    Args:
        class_embeds: of the names, with unit norm, (C, P).
        scale: factor on cosines.
        bias: what is added; None for a model without a bias.
    """

    class_embeds: torch.Tensor
    scale: float
    bias: float | None = None

    @property
    def parameters(self) -> dict[str, float]:
        """Nothing was chosen."""
        return {}

    def logits(self, embeds: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of images (B, P) with unit norm."""
        return self.scale * embeds @ self.class_embeds.t() + (self.bias or 0.0)

    def probabilities(self, embeds: torch.Tensor) -> torch.Tensor:
        """A softmax over the classes; a sigmoid each for a model with a bias, trained with one."""
        logits = self.logits(embeds)
        return logits.softmax(dim=1) if self.bias is None else logits.sigmoid()

    def accuracy(self, examples: Examples) -> float:
        """Share of some examples that is classified correctly."""
        predicted = self.logits(examples.embeds).argmax(dim=1)
        return (predicted == examples.labels).float().mean().item()


def can_be_held_out(labels: torch.Tensor) -> torch.Tensor:
    """Whether the class of each example has others, (N,)."""
    return labels.bincount()[labels] > 1


def fit_temperature(logits: torch.Tensor, labels: torch.Tensor) -> tuple[float, float]:
    """The mean negative log-likelihood at the best of `TEMPERATURES`, and that temperature."""
    losses = {t: F.cross_entropy(logits / t, labels).item() for t in TEMPERATURES}
    temperature = min(losses, key=losses.__getitem__)
    return losses[temperature], temperature
