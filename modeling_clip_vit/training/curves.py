"""A picture of how training went."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from ..utils.figures import figure_style


@figure_style()
def save_curves(path: Path, history: Sequence[dict[str, float]]):
    """Save how loss, learning rate and recall went over the steps of a run."""
    panels = {
        "loss": ["loss", "loss/text", "loss/view"],
        "learning rate": ["learning_rate"],
        "R@1, text to image": sorted(
            {name for line in history for name in line if name.endswith("text_to_image/R@1")}
        ),
    }
    figure = Figure(figsize=(12, 3.4), dpi=110)
    for axis, (title, names) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for name in names:
            points = [(line["step"], line[name]) for line in history if name in line]
            if points:
                label = name.removesuffix("/text_to_image/R@1")
                axis.plot(*zip(*points, strict=True), marker=".", markersize=3, label=label)
        axis.set_title(title)
        axis.set_xlabel("step")
        axis.grid(alpha=0.3)
        if axis.has_data():
            axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)
