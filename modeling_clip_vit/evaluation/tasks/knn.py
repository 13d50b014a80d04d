"""Nearest neighbours: whether images of a class are close to each other.

Shape legend: `N` images, `C` classes, `P` projection.
"""

import torch

from ..accuracy import measure_predictions
from ..embedding import EmbeddedSet
from ..metrics import Metric
from ..ranking import rows_at_once
from .task import EvaluationTask

#: As Caron et al. (2021, section 4.1) found best across models.
NUM_NEIGHBOURS, NEIGHBOUR_TEMPERATURE = 20, 0.07


class NeighboursTask(EvaluationTask):
    """Accuracy of the nearest training images, for every label column."""

    name = "knn"
    title = "Nearest neighbours"
    needs = ("embeddings", "labels", "train_split")

    def measure(self, data: EmbeddedSet) -> list[Metric]:
        """Accuracy, mean per-class recall and the majority baseline."""
        metrics = []
        for column in data.source.labels:
            train, images = data.labelled_train(column), data.labelled(column)
            values = measure_neighbours(
                train.embeds, train.labels, images.embeds, images.labels, images.num_classes
            )
            metrics += data.metrics(self.name, values, column=column)
        return metrics


def measure_neighbours(
    train_embeds: torch.Tensor,
    train_labels: torch.Tensor,
    embeds: torch.Tensor,
    labels: torch.Tensor,
    num_classes: int,
) -> dict[str, float]:
    """The vote of the nearest images, each weighted by exp(cosine / temperature).

    As in Wu et al. (2018, section 3.4), with the hyperparameters of Caron et al. (2021); fewer
    neighbours if there are fewer images. The result is that of `measure_predictions`.
    """
    count = min(NUM_NEIGHBOURS, len(train_embeds))
    predicted = []
    for some in embeds.split(rows_at_once(max(len(train_embeds), num_classes))):
        scores, nearest = (some @ train_embeds.t()).topk(count, dim=1)
        votes = torch.zeros(len(some), num_classes)
        # The largest exponent is 1 / 0.07: no overflow.
        votes.scatter_add_(1, train_labels[nearest], (scores / NEIGHBOUR_TEMPERATURE).exp())
        predicted.append(votes.argmax(dim=1))
    return measure_predictions(torch.cat(predicted), labels)
