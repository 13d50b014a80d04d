"""Measured values with fields, so that nobody has to parse the name of a metric."""

import math
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """One figure.

    Args:
        task: what was measured: `retrieval`, `new_concepts`, `zero_shot`, `classification` …
        split: of the dataset.
        name: of the figure, such as `R@1`.
        value: shares are from 0 to 1.
        of: the column that it is of; empty for none.
        direction: of retrieval, `text_to_image` or `image_to_text`.
        condition: of robustness, the corruption and its severity.
    """

    task: str
    split: str
    name: str
    value: float
    of: str = ""
    direction: str = ""
    condition: str = ""

    @property
    def key(self) -> str:
        """Its name in the logs and the metrics.json of a training run."""
        is_of_split = self.task in ("retrieval", "classification")
        return self.join(self.split if is_of_split else self.task)

    @property
    def task_key(self) -> str:
        """Its name among those of one split."""
        return self.join(self.task)

    def join(self, group: str) -> str:
        """Its fields behind the name of a group."""
        parts = (group, self.of, self.direction, self.name, self.condition)
        return "/".join(part for part in parts if part)


def make_metrics(values: dict[str, float], task: str, split: str, **fields: str) -> list[Metric]:
    """A metric of each named value, with the same fields."""
    return [Metric(task, split, name, value, **fields) for name, value in values.items()]


def as_dict(metrics: Iterable[Metric]) -> dict[str, float]:
    """Key -> value."""
    return {metric.key: metric.value for metric in metrics}


def as_json(metrics: Iterable[Metric]) -> dict[str, float | None]:
    """Key -> value as JSON has it, which knows no NaN and no infinity."""
    return finite(as_dict(metrics))


def finite(values: dict[str, float]) -> dict[str, float | None]:
    """The same values; null in JSON for what is no number there."""
    return {name: value if math.isfinite(value) else None for name, value in values.items()}
