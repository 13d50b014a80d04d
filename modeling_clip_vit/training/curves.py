"""A picture of how training went."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..utils.figures import figure_style


@figure_style()
def save_curves(path: Path, history: Sequence[dict[str, float]], metrics: Sequence[str]):
    """Save how loss, learning rate and metrics went over the steps of a run.

    Args:
        path: the image file.
        history: values by name, a dict for each logged step.
        metrics: names of the evaluated metrics to draw.
    """
    panels = {
        "loss": ["loss", "loss/text", "loss/view"],
        "learning rate": ["learning_rate"],
        "evaluation": list(metrics),
    }
    figure = Figure(figsize=(12, 3.4), dpi=110)
    for axis, (title, names) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in history if name in line]
            if points:
                axis.plot(*zip(*points, strict=True), marker=".", markersize=3, label=name)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend(fontsize=6 if title == "evaluation" else 8)
    figure.tight_layout()
    figure.savefig(path)
