"""Linear probe: how well a linear classifier learns the classes from image embeddings.

Shape legend: `N` images, `C` classes, `P` projection.
"""

import torch
from torch.nn import functional as F  # noqa: N812

from ...utils.errors import UserError
from ..accuracy import measure_predictions
from ..embedding import EmbeddedSet
from ..metrics import Metric
from ..ranking import rows_at_once
from .task import EvaluationTask

#: Weights of the L2 penalty that are tried.
PENALTIES = tuple(10.0**power for power in range(-6, 3))


class LinearProbeTask(EvaluationTask):
    """Accuracy of a linear probe, for every label column."""

    name = "linear_probe"
    title = "Linear probe"
    needs = ("embeddings", "labels", "train_split")
    not_shares = ("penalty",)

    def measure(self, data: EmbeddedSet) -> list[Metric]:
        """Accuracy, mean per-class recall, the majority baseline and the chosen penalty."""
        metrics = []
        for column in data.source.labels:
            train, images = data.labelled_train(column), data.labelled(column)
            values = measure_linear_probe(
                train.embeds,
                train.labels,
                images.embeds,
                images.labels,
                images.num_classes,
                data.options.seed,
            )
            metrics += data.metrics(self.name, values, column=column)
        return metrics


def measure_linear_probe(
    train_embeds: torch.Tensor,
    train_labels: torch.Tensor,
    embeds: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
    seed: int = 0,
) -> dict[str, float]:
    """Multinomial logistic regression on frozen embeddings (Radford et al., 2021, appendix A.3).

    The penalty is the one that does best on a fifth of the training images, drawn by the seed;
    the probe then learns from all of them.

    Returns:
        As `measure_predictions`, and the chosen `penalty`.

    Raises:
        UserError: there are fewer than five training images.
    """
    mean, std = train_embeds.mean(dim=0), train_embeds.std(dim=0).clamp(min=1e-6)
    train_embeds, embeds = (train_embeds - mean) / std, (embeds - mean) / std
    order = torch.randperm(len(train_labels), generator=torch.Generator().manual_seed(seed))
    held_out, learned = order[: len(order) // 5], order[len(order) // 5 :]
    if len(held_out) == 0:
        raise UserError(f"a linear probe needs at least 5 images to learn from, not {len(order)}")
    weights = torch.zeros(num_classes, embeds.shape[1] + 1)
    accuracies = {}
    for penalty in reversed(PENALTIES):  # each starts where a stronger penalty ended
        weights = fit(train_embeds[learned], train_labels[learned], penalty, weights)
        right = predict(train_embeds[held_out], weights) == train_labels[held_out]
        accuracies[penalty] = right.float().mean().item()
    penalty = max(accuracies, key=accuracies.__getitem__)
    weights = fit(train_embeds, train_labels, penalty, torch.zeros_like(weights))
    return {**measure_predictions(predict(embeds, weights), labels), "penalty": penalty}


def fit(
    embeds: torch.Tensor, labels: torch.Tensor, penalty: float, start: torch.Tensor
) -> torch.Tensor:
    """Weights (C, P + 1), the last column the bias, with the least mean cross entropy plus
    `penalty / 2` times the squared weights, by L-BFGS. Memory does not grow with N * C.
    """
    weights = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([weights], max_iter=500, line_search_fn="strong_wolfe")
    size = rows_at_once(len(start))

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        total = penalty / 2 * weights[:, :-1].square().sum()
        total.backward()
        for some, right in zip(embeds.split(size), labels.split(size), strict=True):
            loss = F.cross_entropy(score(some, weights), right, reduction="sum") / len(embeds)
            loss.backward()
            total = total + loss.detach()
        return total.detach()

    optimizer.step(closure)
    return weights.detach()


def score(embeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Logits (N, C)."""
    return F.linear(embeds, weights[:, :-1], weights[:, -1])


def predict(embeds: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The most probable class of each image, (N,)."""
    blocks = embeds.split(rows_at_once(len(weights)))
    return torch.cat([score(some, weights).argmax(dim=1) for some in blocks])
