"""Few-shot classification: how accurate a few training images of each class make a model.

Shape legend: `N` images, `C` classes, `P` projection.
"""

from collections.abc import Sequence
from functools import partial
from statistics import mean, stdev
from typing import TYPE_CHECKING

import torch

from ...inference.few_shot import METHODS, Examples, ZeroShot, draw_shots
from ...utils.errors import UserError
from ..embedding import EmbeddedSet, LabelledImages
from ..metrics import Metric
from .linear_probe import measure_linear_probe
from .task import EvaluationTask, Panel

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Numbers of training images of a class.
SHOTS = (1, 2, 4, 8, 16)
#: Draws of training images, over which mean and standard deviation are taken.
NUM_DRAWS = 5
#: Fewer images are not enough for the linear probe.
LEAST_FOR_PROBE = 5


class FewShotTask(EvaluationTask):
    """Accuracy of the few-shot methods and of a linear probe, for every label column.

    The condition of a metric is the method and the number of images of a class,
    `tip_adapter/4-shot`. `accuracy` is the mean over `NUM_DRAWS` draws, `accuracy_std` their
    standard deviation.
    """

    name = "few_shot"
    title = "Few examples"
    needs = ("embeddings", "class_names", "train_split")
    headlines = ()
    is_default = False

    def measure(self, data: EmbeddedSet) -> list[Metric]:
        """Mean and standard deviation of the accuracy, by method and number of images."""
        metrics = []
        for column in data.source.labels:
            train, images = data.labelled_train(column), data.labelled(column)
            counts = train.labels.bincount(minlength=train.num_classes)
            names = data.source.labels[column].names
            shots = choose_shots(counts.tolist(), names, data.options.shots)
            for count in shots:
                results = measure_few_shot(
                    Examples(train.embeds, train.labels),
                    images,
                    data.similarity,
                    count,
                    data.options.seed,
                )
                for method, values in results.items():
                    condition = f"{method}/{count}-shot"
                    metrics += data.metrics(self.name, values, column=column, condition=condition)
        return metrics

    def panels(self, metrics: list[Metric]) -> list[Panel]:
        """Accuracy over the number of images of a class, a panel for each label column."""
        columns: dict[str, dict[tuple[str, str], float]] = {}
        for metric in metrics:
            values = columns.setdefault(metric.column, {})
            values[metric.condition, metric.name] = 100 * metric.value
        return [
            partial(draw_few_shot, column=column, values=values)
            for column, values in columns.items()
        ]


def choose_shots(
    counts: Sequence[int], names: Sequence[str], wanted: Sequence[int] | None
) -> list[int]:
    """The wanted numbers of images of a class; by default those of `SHOTS` that every class has.

    Args:
        counts: training images of each class.
        names: of the classes.
        wanted: the numbers; None for the default.

    Raises:
        UserError: a class has fewer images.
    """
    least = min(counts)
    largest = max(wanted) if wanted else SHOTS[0]
    if least < largest:
        name = names[counts.index(least)]
        raise UserError(
            f"few_shot needs {largest} training images of each class, and {name!r} has {least}"
        )
    return list(wanted) if wanted else [count for count in SHOTS if count <= least]


def measure_few_shot(
    train: Examples,
    images: LabelledImages,
    similarity: tuple[float, float | None],
    shots: int,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Accuracy with some training images of each class, drawn several times.

    Every method gets the same images. What a method chooses, it chooses on them alone.

    Args:
        train: what the images are drawn from.
        images: what is classified, with the embeddings of the class names.
        similarity: the model's scale and bias.
        shots: images of each class.
        seed: of the first draw; each further draw has the next one.

    Returns:
        Method, or `linear_probe` if there are enough images -> `accuracy` and `accuracy_std`.
    """
    zero_shot = ZeroShot(images.class_embeds, *similarity)
    accuracies: dict[str, list[float]] = {}
    for draw in range(seed, seed + NUM_DRAWS):
        examples = train.take(draw_shots(train.labels, images.num_classes, shots, draw))
        for method, fit in METHODS.items():
            logits = fit(zero_shot, examples, draw).logits(images.embeds)
            accuracies.setdefault(method, []).append(accuracy_of(logits, images.labels))
        if len(examples.labels) >= LEAST_FOR_PROBE:
            values = measure_linear_probe(
                *examples, images.embeds, images.labels, images.num_classes, draw
            )
            accuracies.setdefault("linear_probe", []).append(values["accuracy"])
    return {
        method: {"accuracy": mean(values), "accuracy_std": stdev(values)}
        for method, values in accuracies.items()
    }


def accuracy_of(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """How often the right class comes first; a tie counts against the model."""
    right = logits.gather(1, labels[:, None])
    return ((logits >= right).sum(dim=1) == 1).float().mean().item()


def draw_few_shot(axis: "Axes", column: str, values: dict[tuple[str, str], float]):
    """Accuracy of each method, in percent, over the number of images of a class."""
    methods = list(dict.fromkeys(condition.split("/")[0] for condition, _ in values))
    shots = sorted({int(condition.split("/")[1].split("-")[0]) for condition, _ in values})
    for method in methods:
        measured = [count for count in shots if (f"{method}/{count}-shot", "accuracy") in values]
        lines = [
            [values[f"{method}/{count}-shot", name] for count in measured]
            for name in ("accuracy", "accuracy_std")
        ]
        label = method.replace("_", " ")
        axis.errorbar(measured, lines[0], lines[1], marker="o", markersize=3, label=label)
    axis.set_xscale("log", base=2)
    axis.set_xticks(shots, [str(count) for count in shots])
    axis.set(ylim=(0, 100), xlabel="training images of a class", ylabel="%")
    axis.set_title(f"{column}: accuracy with few examples", fontsize=10)
    axis.legend(fontsize=7)
