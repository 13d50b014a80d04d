"""Prototypes: the mean image of each class, into which its name may be mixed.

Shape legend: `B` images, `M` held-out examples, `C` classes, `P` projection.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional as F  # noqa: N812

from .classifiers import Examples, ZeroShot, can_be_held_out, fit_temperature

#: Weights of the names that are tried.
TEXT_WEIGHTS = tuple(step / 10 for step in range(11))


@dataclass(frozen=True)
class Prototypes:
    """Cosines with a prototype of each class (Snell et al., 2017, section 2.2).

    Args:
        prototypes: with unit norm, (C, P).
        scale: factor on cosines.
        text_weight: of the names in the prototypes, from 0 to 1.
        temperature: of the probabilities.
    """

    prototypes: torch.Tensor
    scale: float
    text_weight: float
    temperature: float

    @property
    def parameters(self) -> dict[str, float]:
        """Weight of the names, and temperature."""
        return {"text_weight": self.text_weight, "temperature": self.temperature}

    def logits(self, embeds: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of images (B, P) with unit norm."""
        return self.scale * embeds @ self.prototypes.t()

    def probabilities(self, embeds: torch.Tensor) -> torch.Tensor:
        """A softmax over the classes at the temperature."""
        return (self.logits(embeds) / self.temperature).softmax(dim=1)


def fit_prototypes(zero_shot: ZeroShot, examples: Examples) -> Prototypes:
    """Prototypes, with the weight of the names that makes each left-out example likeliest.

    With one example a class none can be left out. The weight is then half of the share of the
    examples that the names classify correctly.
    """
    texts, scale = zero_shot.class_embeds, zero_shot.scale
    sums = torch.zeros_like(texts).index_add(0, examples.labels, examples.embeds)
    held_out = examples.take(can_be_held_out(examples.labels))
    if len(held_out.labels) == 0:
        weight, temperature = zero_shot.accuracy(examples) / 2, 1.0
    else:
        fitted = {
            weight: fit_temperature(
                scale * leave_one_out(sums, texts, weight, held_out), held_out.labels
            )
            for weight in TEXT_WEIGHTS
        }
        weight = min(fitted, key=lambda weight: fitted[weight][0])
        temperature = fitted[weight][1]
    return Prototypes(mix(sums, texts, weight), scale, weight, temperature)


def mix(sums: torch.Tensor, texts: torch.Tensor, text_weight: float) -> torch.Tensor:
    """Prototypes with unit norm of the sums of the images and of the names, (C, P) each."""
    return F.normalize(torch.lerp(F.normalize(sums, dim=1), texts, text_weight), dim=1)


def leave_one_out(
    sums: torch.Tensor, texts: torch.Tensor, text_weight: float, examples: Examples
) -> torch.Tensor:
    """Cosines (M, C) of examples with prototypes; that of its own class is made without each."""
    embeds, labels = examples
    cosines = embeds @ mix(sums, texts, text_weight).t()
    own = mix(sums[labels] - embeds, texts[labels], text_weight)
    return cosines.scatter(1, labels[:, None], (embeds * own).sum(dim=1, keepdim=True))
