"""Robustness: accuracy and recall on corrupted images."""

import sys
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from ..corruptions import CORRUPTIONS, SEVERITIES, Corruption
from ..embedding import EmbeddedSet
from ..metrics import Metric
from .retrieval import RetrievalTask
from .task import EvaluationTask, Panel
from .zero_shot import ZeroShotTask

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: What is measured on corrupted images: task and metric.
MEASURED = (("retrieval", "R@1"), ("zero_shot", "accuracy"))


class RobustnessTask(EvaluationTask):
    """Zero-shot accuracy and text-to-image R@1 on corrupted images.

    The condition of a metric is the corruption and its severity, `contrast/3`; `contrast/mean` is
    the mean over severities, `all/mean` the mean over corruptions, and `none/mean` the uncorrupted
    crop.
    """

    name = "robustness"
    title = "Robustness"
    uses = ("captions", "class_names")
    headlines = ()
    is_default = False
    embeds_images = True

    def measure(self, data: EmbeddedSet) -> list[Metric]:
        """Embed every image with each corruption; the metrics are empty but in the main process."""
        clean = self.measure_corrupted(data, None, 0)
        results: dict[str, list[Metric]] = {}
        for name in CORRUPTIONS:
            by_severity = [self.measure_corrupted(data, name, s) for s in SEVERITIES]
            results |= {f"{name}/{s}": m for s, m in zip(SEVERITIES, by_severity, strict=True)}
            results[f"{name}/mean"] = average(by_severity)
        results["all/mean"] = average([results[f"{name}/mean"] for name in CORRUPTIONS])
        results["none/mean"] = clean
        return [
            replace(metric, task=self.name, condition=condition)
            for condition, metrics in results.items()
            for metric in metrics
        ]

    def measure_corrupted(self, data: EmbeddedSet, name: str | None, severity: int) -> list[Metric]:
        """Embed every image with one corruption, and measure; empty but in the main process."""
        if data.is_main and name is not None:
            print(f"robustness: {name}, severity {severity}", file=sys.stderr)
        corrupted = data.corrupted(Corruption(name, severity, data.options.seed))
        if not data.is_main:
            return []
        metrics: list[Metric] = []
        if data.captions:
            metrics += RetrievalTask(["text_to_image"]).measure(corrupted)
        if data.class_embeds:
            metrics += ZeroShotTask().measure(corrupted)
        return [m for m in metrics if (m.task, m.name) in MEASURED]

    def panels(self, metrics: list[Metric]) -> list[Panel]:
        """A metric over the severity of each corruption."""
        lines = dict.fromkeys((metric.column, metric.direction, metric.name) for metric in metrics)
        return [
            partial(
                draw_robustness,
                title=", ".join(part for part in line if part),
                values={
                    metric.condition: 100 * metric.value
                    for metric in metrics
                    if (metric.column, metric.direction, metric.name) == line
                },
            )
            for line in lines
        ]


def average(measurements: list[list[Metric]]) -> list[Metric]:
    """The mean of each metric over several measurements of the same ones."""
    return [
        replace(same[0], value=sum(metric.value for metric in same) / len(same))
        for same in zip(*measurements, strict=True)
    ]


def draw_robustness(axis: "Axes", title: str, values: dict[str, float]):
    """A metric, in percent, over the severity of each corruption; 0 is the uncorrupted crop."""
    for name, marker in zip(CORRUPTIONS, "osv^D<>", strict=True):
        line = [values["none/mean"], *(values[f"{name}/{severity}"] for severity in SEVERITIES)]
        label = name.replace("_", " ")
        axis.plot(range(len(line)), line, marker=marker, markersize=3, label=label)
    axis.set(ylim=(0, None), xlabel="severity", ylabel="%")
    axis.set_title(f"{title} under corruption", fontsize=10)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
