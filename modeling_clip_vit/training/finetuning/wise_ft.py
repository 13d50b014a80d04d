"""WiSE-FT: models between the start of a run and its end."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from transformers import PreTrainedModel

from ...evaluation.metrics import Metric
from ...utils.figures import figure_style
from ...utils.interpolation import interpolate


@dataclass
class Point:
    """What was measured of one model between start and end.

    Args:
        alpha: share of the end in its weights.
        metrics: of it.
    """

    alpha: float
    metrics: list[Metric]


class Interpolation:
    """The models on the line from the weights at the start to those at the end.

    Wortsman et al. (2022, "Robust fine-tuning of zero-shot models", equation 1).

    Args:
        model: at the start.
        new_parts: beginnings of the names of weights that are new in this run. They have no start,
            so they are those of the end everywhere.
    """

    def __init__(self, model: PreTrainedModel, new_parts: Sequence[str] = ()):
        self.start = {
            name: weight.detach().to("cpu", copy=True)
            for name, weight in model.state_dict().items()
            if not name.startswith(tuple(new_parts))
        }
        self.end: dict[str, torch.Tensor] = {}

    def keep_end(self, model: PreTrainedModel):
        """Keep the weights at the end.

        Args:
            model: with the same names as at the start.
        """
        self.end = {
            name: one.detach().to("cpu", copy=True) for name, one in model.state_dict().items()
        }

    def move(self, model: PreTrainedModel, alpha: float):
        """Give a model the weights `(1 - alpha) * start + alpha * end`."""
        model.load_state_dict(self.end | interpolate(self.start, self.end, alpha))

    def measure(
        self,
        model: PreTrainedModel,
        alphas: Sequence[float],
        evaluate: Callable[[PreTrainedModel], list[Metric]],
    ) -> list[Point]:
        """Measure models on the line.

        Args:
            model: takes the weights of each in turn, and keeps its own in the end.
            alphas: shares of the end, from 0 to 1.
            evaluate: measures a model.
        """
        own = {name: weight.clone() for name, weight in model.state_dict().items()}
        points = []
        for alpha in alphas:
            self.move(model, alpha)
            points.append(Point(alpha, evaluate(model)))
        model.load_state_dict(own)
        return points


@figure_style()
def save_interpolation(path: Path, points: Sequence[Point], names: Sequence[str], saved: float):
    """Draw metrics between the start and the end of a run.

    Args:
        path: the image file.
        points: what was measured.
        names: keys of the metrics to draw.
        saved: share of the end in the saved weights, which a line marks.
    """
    figure = Figure(figsize=(7, 4), dpi=110)
    axis = figure.subplots()
    for name in names:
        line = [(p.alpha, m.value) for p in points for m in p.metrics if m.key == name]
        if line:
            axis.plot(*zip(*sorted(line), strict=True), marker="o", markersize=3, label=name)
    axis.axvline(saved, color="gray", linestyle="--", linewidth=1, label="saved weights")
    axis.set_xlabel("share of the end (0: start, 1: end of training)")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
