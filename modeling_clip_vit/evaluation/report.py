"""What an evaluation leaves: metrics.json, a table and a picture."""

import json
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils.figures import figure_style
from ..utils.markdown import escape_cell
from .calibration import NUM_BINS, Reliability
from .metrics import Metric, finite
from .tasks import EvaluationReport

TITLES = {
    "retrieval": "Retrieval",
    "zero_shot": "Zero-shot classes",
    "linear_probe": "Linear probe",
    "knn": "Nearest neighbours",
    "calibration": "Calibration of the zero-shot classes",
    "robustness": "Robustness",
}
#: Metrics that are no shares, and are not written in percent.
NO_SHARES = {"median_rank", "penalty", "NLL", "Brier", "temperature", "fitted_NLL", "fitted_Brier"}


#: What a row of a task's table is of: column, direction, and of robustness figure and corruption.
Row = tuple[str, ...]


def group_by_task(metrics: Iterable[Metric]) -> dict[str, dict[Row, dict[str, float]]]:
    """Task -> row of its table -> column -> value."""
    tables: dict[str, dict[Row, dict[str, float]]] = {}
    for metric in metrics:
        row: Row = (metric.of, metric.direction)
        column = metric.name
        if metric.condition:
            corruption, column = metric.condition.split("/")
            row = (*row, metric.name, corruption)
        row = tuple(part for part in row if part)
        tables.setdefault(metric.task, {}).setdefault(row, {})[column] = metric.value
    return tables


def write_tables(metrics: Iterable[Metric]) -> str:
    """Every task as a table of Markdown; shares in percent."""
    parts = []
    for task, rows in group_by_task(metrics).items():
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        lines = [
            f"| {TITLES[task]} | {' | '.join(column.replace('_', ' ') for column in columns)} |"
        ]
        lines.append("| --- " * (len(columns) + 1) + "|")
        for name, row in rows.items():
            cells = [write_value(column, row.get(column)) for column in columns]
            label = escape_cell(", ".join(name))
            lines.append(f"| {label} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def write_value(metric: str, value: float | None) -> str:
    """A cell of a table."""
    if value is None:
        return ""
    return f"{value:.3g}" if metric in NO_SHARES else f"{100 * value:.1f}"


def save_report(folder: Path, report: EvaluationReport, facts: dict):
    """Write metrics.json, evaluation.md and evaluation.png, each whole or not at all.

    Args:
        folder: where to; made if it is not there.
        report: what was measured.
        facts: what else metrics.json says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "metrics": finite({metric.task_key: metric.value for metric in report.metrics}),
        **facts,
        "split": report.split,
        "columns": vars(report.columns),
        "num_images": report.num_images,
        "num_unreadable": report.bad.count,
        "unreadable": report.bad.examples,
    }
    beside = folder / ".evaluation.partial.png"
    save_picture(beside, report)
    os.replace(beside, folder / "evaluation.png")
    texts = {
        "metrics.json": json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
        "evaluation.md": write_tables(report.metrics),
    }
    for name, text in texts.items():
        beside = folder / f".{name}.partial"
        beside.write_text(text, encoding="utf-8")
        os.replace(beside, folder / name)


@figure_style()
def save_picture(path: Path, report: EvaluationReport):
    """Save bars of recall and accuracy, the reliability diagram, and accuracy under corruption."""
    tables = group_by_task(report.metrics)
    bars = [task for task in ("retrieval", "zero_shot", "linear_probe", "knn") if task in tables]
    panels: list[Callable[[Axes], None]] = []
    if bars:
        panels.append(partial(draw_bars, tables={task: tables[task] for task in bars}))
    for name, diagram in report.diagrams.items():
        panels.append(partial(draw_reliability, name=name, diagram=diagram))
    robustness = tables.get("robustness", {})
    for what in dict.fromkeys(row[:-1] for row in robustness):
        panels.append(partial(draw_robustness, what=what, rows=robustness))
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 4.2 * lines), dpi=110)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, draw in zip(axes, panels, strict=False):
        draw(axis)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path)


def draw_bars(axis: Axes, tables: dict[str, dict[Row, dict[str, float]]]):
    """Recall, mean average precision and accuracies, one bar each."""
    wanted = ("R@1", "R@5", "R@10", "mAP", "accuracy", "accuracy_top_5", "mean_per_class_recall")
    names: list[str] = []
    values: list[float] = []
    colors: list[str] = []
    for task, rows in tables.items():
        for name, row in rows.items():
            color = f"C{len(set(colors))}"
            words = ", ".join(name).replace("_to_", " → ")
            for metric in wanted:
                if metric in row:
                    title = f"{words} " if task == "retrieval" else f"{TITLES[task].lower()} "
                    names.append(title + metric.replace("_", " "))
                    values.append(100 * row[metric])
                    colors.append(color)
    places = range(len(names))
    axis.barh(places, values, color=colors)
    for place, value in zip(places, values, strict=True):
        axis.text(value + 1, place, f"{value:.1f}", va="center", fontsize=7)
    axis.set_yticks(places, names, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 112)
    axis.set_xlabel("%")
    axis.set_title("recall and accuracy", fontsize=10)


def draw_reliability(axis: Axes, name: str, diagram: Reliability):
    """Accuracy by confidence; the diagonal is what it should be (Guo et al., 2017, figure 1)."""
    width = 1 / NUM_BINS
    places = [(number + 0.5) * width for number in range(NUM_BINS)]
    accuracy, share = diagram.accuracy.tolist(), diagram.share.tolist()
    axis.bar(places, accuracy, width=width, edgecolor="white", label="accuracy")
    axis.bar(places, share, width=0.35 * width, color="0.3", label="share of images")
    confidence = diagram.confidence[diagram.share > 0].tolist()
    axis.plot(confidence, confidence, "r.", label="mean confidence")
    axis.plot([0, 1], [0, 1], "--", color="grey", linewidth=1)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy")
    title = f"reliability, {name}: ECE {100 * diagram.error():.1f} %"
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=7, loc="upper left")


def draw_robustness(axis: Axes, what: Row, rows: dict[Row, dict[str, float]]):
    """A metric over the severity of each corruption; severity 0 is the image as it is."""
    clean = 100 * rows[*what, "none"]["mean"]
    lines = [row for row in rows if row[:-1] == what and "1" in rows[row]]
    for name, marker in zip(lines, "osv^D<>", strict=True):
        values = [clean, *(100 * rows[name][str(severity)] for severity in range(1, 6))]
        label = name[-1].replace("_", " ")
        axis.plot(range(6), values, marker=marker, markersize=3, label=label)
    axis.set(ylim=(0, None), xlabel="severity", ylabel="%")
    title = f"{', '.join(what)} under corruption"
    axis.set_title(title, fontsize=10)
    axis.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
