"""Measured values with fields, so that nobody has to parse the name of a metric."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

#: Tasks whose metrics go by the name of their evaluation alone.
MAIN_TASKS = ("retrieval", "classification")


@dataclass(frozen=True)
class Metric:
    """One measured value.

    Args:
        task: what was measured: `retrieval`, `zero_shot`, `classification` …
        split: split of the dataset.
        name: name of the metric, such as `R@1`.
        value: shares are from 0 to 1.
        column: the column that it is about; empty for none.
        direction: for retrieval, `text_to_image` or `image_to_text`.
        condition: for robustness, the corruption and its severity; for few_shot, the method and the
            number of examples.
        dataset: folder or Hub id.
        evaluation: what the recipe calls the evaluation; the split by default.
    """

    task: str
    split: str
    name: str
    value: float
    column: str = ""
    direction: str = ""
    condition: str = ""
    dataset: str = ""
    evaluation: str = ""

    @property
    def key(self) -> str:
        """Its name in the logs and in the metrics.json of a training run."""
        task = "" if self.task in MAIN_TASKS else self.task
        return self.join(self.evaluation or self.split, task)

    @property
    def task_key(self) -> str:
        """Its name among the metrics of one evaluation."""
        return self.join(self.task)

    def join(self, *groups: str) -> str:
        """Its fields behind the names of its groups."""
        parts = (*groups, self.column, self.direction, self.name, self.condition)
        return "/".join(part for part in parts if part)


def as_dict(metrics: Iterable[Metric]) -> dict[str, float]:
    """Key -> value."""
    return {metric.key: metric.value for metric in metrics}


def as_json(metrics: Iterable[Metric]) -> dict[str, float | None]:
    """Key -> value as JSON has it, which knows no NaN and no infinity."""
    return finite(as_dict(metrics))


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """The same values; null in JSON for what is no number there."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
