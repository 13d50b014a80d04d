"""Tip-Adapter: zero-shot logits and a vote of the examples.

Shape legend: `B` images, `N` examples, `M` held-out ones, `C` classes, `P` projection.
"""

from dataclasses import dataclass

import torch

from .classifiers import Examples, ZeroShot, can_be_held_out, fit_temperature

#: Sharpness ratios (beta) that are tried, and the one for examples of which none can be held out.
BETAS, USUAL_BETA = tuple(2.0**power for power in range(8)), 5.5
#: How far the votes spread the logits of an image, as a multiple of how far its names do: each is a
#: residual ratio (alpha) that is tried.
SPREADS = (0.0, *(2.0**power for power in range(-3, 7)))
#: Rows of cosines in memory at a time.
ROWS_AT_ONCE = 1024


@dataclass(frozen=True)
class TipAdapter:
    """Zero-shot logits and votes of the examples (Zhang et al., 2022, section 3.1).

    Args:
        zero_shot: classifies by the names.
        keys: what images are compared with, one of each example, (N, P).
        labels: class of each key, (N,).
        alpha: weight of the votes (the residual ratio).
        beta: how fast a vote falls with the distance (the sharpness ratio).
        temperature: of the probabilities.
        num_epochs: how long the keys were trained.
    """

    zero_shot: ZeroShot
    keys: torch.Tensor
    labels: torch.Tensor
    alpha: float
    beta: float
    temperature: float
    num_epochs: int = 0

    @property
    def parameters(self) -> dict[str, float]:
        """Alpha, beta, temperature, and how long the keys were trained."""
        chosen = {"alpha": self.alpha, "beta": self.beta, "temperature": self.temperature}
        return {**chosen, "num_epochs": self.num_epochs} if self.num_epochs else chosen

    def logits(self, embeds: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of images (B, P) with unit norm."""
        zero_shot = self.zero_shot.logits(embeds)
        votes = [
            count_votes(block @ self.keys.t(), self.labels, zero_shot.shape[1], self.beta)
            for block in embeds.split(ROWS_AT_ONCE)
        ]
        return zero_shot + self.alpha * torch.cat(votes)

    def probabilities(self, embeds: torch.Tensor) -> torch.Tensor:
        """A softmax over the classes at the temperature."""
        return (self.logits(embeds) / self.temperature).softmax(dim=1)


def count_votes(
    cosines: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    beta: float,
    shots: float | None = None,
) -> torch.Tensor:
    """Votes for the classes, (B, C): the sum of exp(-beta (1 - cosine)) over the keys of each.

    Where classes have different numbers of keys, their sums are weighted, so that each counts as if
    it had the mean number.

    Args:
        cosines: of images with keys, (B, N); -inf for a key that has no vote.
        labels: class of each key, (N,).
        num_classes: C.
        beta: sharpness ratio.
        shots: the number of keys that each class counts as having; by default the mean.
    """
    counts = labels.bincount(minlength=num_classes)
    votes = (beta * (cosines - 1)).exp()
    sums = votes.new_zeros(len(votes), num_classes).index_add(1, labels, votes)
    return sums * ((shots or len(labels) / num_classes) / counts.clamp(min=1))


@dataclass(frozen=True)
class HeldOut:
    """Held-out examples, and what the others say of them.

    Args:
        zero_shot: their logits by the names, (M, C).
        votes: beta -> the votes of the others, (M, C).
        labels: their classes, (M,).
    """

    zero_shot: torch.Tensor
    votes: dict[float, torch.Tensor]
    labels: torch.Tensor


@dataclass(frozen=True)
class Choice:
    """Hyperparameters, and the negative log-likelihood of held-out examples with them."""

    loss: float
    alpha: float
    beta: float
    temperature: float


def fit_tip_adapter(zero_shot: ZeroShot, examples: Examples) -> TipAdapter:
    """A Tip-Adapter, with the alpha and beta that make each left-out example likeliest.

    With one example a class none can be left out: see `guess`.
    """
    held_out = leave_one_out(zero_shot, examples)
    choice = guess(zero_shot, examples) if held_out is None else choose(held_out)
    chosen = choice.alpha, choice.beta, choice.temperature
    return TipAdapter(zero_shot, examples.embeds, examples.labels, *chosen)


def leave_one_out(zero_shot: ZeroShot, examples: Examples) -> HeldOut | None:
    """What the other examples say of each one whose class has others; None if there is no such."""
    embeds, labels = examples
    rows_of_held_out = can_be_held_out(labels).nonzero().flatten()
    if len(rows_of_held_out) == 0:
        return None
    num_classes = len(zero_shot.class_embeds)
    parts: dict[float, list[torch.Tensor]] = {beta: [] for beta in BETAS}
    for rows in rows_of_held_out.split(ROWS_AT_ONCE):
        cosines = embeds[rows] @ embeds.t()
        cosines[torch.arange(len(rows)), rows] = -torch.inf
        for beta, blocks in parts.items():
            blocks.append(count_votes(cosines, labels, num_classes, beta))
    own = labels[rows_of_held_out, None]
    counts = labels.bincount()[own]
    votes = {beta: torch.cat(blocks) for beta, blocks in parts.items()}
    for counted in votes.values():
        # The class of the left-out example counts as much as before with the keys that it has left.
        counted.scatter_(1, own, counted.gather(1, own) * counts / (counts - 1))
    held_out = examples.take(rows_of_held_out)
    return HeldOut(zero_shot.logits(held_out.embeds), votes, held_out.labels)


def choose(held_out: HeldOut) -> Choice:
    """The alpha, beta and temperature that make held-out examples likeliest."""
    choices = []
    for beta, votes in held_out.votes.items():
        unit = spread_ratio(held_out.zero_shot, votes)
        for spread in SPREADS:
            logits = held_out.zero_shot + spread * unit * votes
            loss, temperature = fit_temperature(logits, held_out.labels)
            choices.append(Choice(loss, spread * unit, beta, temperature))
    return min(choices, key=lambda choice: choice.loss)


def guess(zero_shot: ZeroShot, examples: Examples) -> Choice:
    """Alpha and beta for examples of which none can be held out.

    Beta is 5.5, the best in the paper's ablation. Alpha follows from how well the names classify
    the examples: the votes spread an image's logits (wrong / right) times as far as the names do.
    The temperature keeps the logits as far apart as the names' were.
    """
    embeds, labels = examples
    logits = zero_shot.logits(embeds)
    votes = count_votes(embeds @ embeds.t(), labels, logits.shape[1], USUAL_BETA)
    right = zero_shot.accuracy(examples)
    spread = min(SPREADS[-1], (1 - right) / max(right, 1e-12))
    alpha = spread * spread_ratio(logits, votes)
    return Choice(torch.nan, alpha, USUAL_BETA, temperature=max(1.0, spread))


def spread_ratio(zero_shot: torch.Tensor, votes: torch.Tensor) -> float:
    """How many times as far the names spread an image's logits as the votes do, (B, C) both."""
    spreads = [scores.std(dim=1, correction=0).mean().item() for scores in (zero_shot, votes)]
    return spreads[0] / max(spreads[1], 1e-12)
