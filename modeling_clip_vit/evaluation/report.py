"""What an evaluation leaves: metrics.json, a table and a picture."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils.figures import figure_style
from ..utils.folders import committed_files, write_json
from ..utils.markdown import escape_cell
from .evaluate import EvaluationReport
from .metrics import Metric, finite
from .tasks import TASKS
from .tasks.task import Panel

#: Metrics that are drawn as bars: shares that are good when they are high.
BARS = (
    *("R@1", "R@5", "R@10", "mAP", "accuracy", "accuracy_top_5", "mean_per_class_recall"),
    *("top1_accuracy", "top5_accuracy"),
)

#: A row of a task's table: column and direction; with a condition also metric and the condition's
#: first part, whose second part is the column.
Row = tuple[str, ...]


def group_by_task(metrics: Iterable[Metric]) -> dict[str, dict[Row, dict[str, float]]]:
    """Task -> row of its table -> column -> value."""
    tables: dict[str, dict[Row, dict[str, float]]] = {}
    for metric in metrics:
        row: Row = (metric.column, metric.direction)
        column = metric.name
        if metric.condition:
            condition, column = metric.condition.split("/")
            row = (*row, metric.name, condition)
        row = tuple(part for part in row if part)
        tables.setdefault(metric.task, {}).setdefault(row, {})[column] = metric.value
    return tables


def write_tables(metrics: Iterable[Metric]) -> str:
    """Every task as a table of Markdown; shares in percent."""
    parts = []
    for name, rows in group_by_task(metrics).items():
        task = TASKS[name]
        columns = list(dict.fromkeys(column for row in rows.values() for column in row))
        lines = [f"| {task.title} | {' | '.join(column.replace('_', ' ') for column in columns)} |"]
        lines.append("| --- " * (len(columns) + 1) + "|")
        for fields, row in rows.items():
            cells = [write_value(row.get(column), column in task.not_shares) for column in columns]
            label = escape_cell(", ".join(fields))
            lines.append(f"| {label} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def write_value(value: float | None, is_plain: bool) -> str:
    """A cell of a table: a share in percent, or a plain number."""
    if value is None:
        return ""
    return f"{value:.3g}" if is_plain else f"{100 * value:.1f}"


def save_report(folder: Path, report: EvaluationReport, facts: dict):
    """Write metrics.json, evaluation.md and evaluation.png; all of them, or none on an error.

    Args:
        folder: where to; made if it is not there.
        report: what was measured.
        facts: what else metrics.json says.
    """
    content = {
        "metrics": finite({metric.task_key: metric.value for metric in report.metrics}),
        **facts,
        "split": report.source.split,
        "columns": vars(report.source.columns),
        "num_images": len(report.images.rows),
        "num_unreadable": report.images.bad.count,
        "unreadable": report.images.bad.examples,
    }
    with committed_files(folder, []) as partial_folder:
        save_picture(partial_folder / "evaluation.png", report)
        write_json(partial_folder / "metrics.json", content)
        tables = write_tables(report.metrics)
        (partial_folder / "evaluation.md").write_text(tables, encoding="utf-8")


@figure_style()
def save_picture(path: Path, report: EvaluationReport):
    """Save bars of recall and accuracy, and what the tasks draw themselves."""
    panels: list[Panel] = []
    bars = [m for m in report.metrics if m.name in BARS and not m.condition]
    if bars:
        panels.append(partial(draw_bars, metrics=bars))
    for task in report.tasks:
        panels += task.panels([m for m in report.metrics if m.task == task.name])
    # A task of another kind may have neither bars nor panels.
    columns = max(1, min(3, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    figure = Figure(figsize=(4.6 * columns, 4.2 * lines), dpi=110)
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    for axis, draw in zip(axes, panels, strict=False):
        draw(axis)
    for axis in axes[len(panels) :]:
        axis.axis("off")
    figure.tight_layout()
    figure.savefig(path)


def draw_bars(axis: Axes, metrics: list[Metric]):
    """Recall, mean average precision and accuracies, one bar each; a colour for each row."""
    rows = list(dict.fromkeys((m.task, m.column, m.direction) for m in metrics))
    names, values, colors = [], [], []
    for metric in metrics:
        place = (metric.task, metric.column, metric.direction)
        words = ", ".join(part for part in place[1:] if part).replace("_to_", " → ")
        title = words if metric.task == "retrieval" else TASKS[metric.task].title.lower()
        names.append(f"{title} {metric.name.replace('_', ' ')}")
        values.append(100 * metric.value)
        colors.append(f"C{rows.index(place) % 10}")
    places = range(len(names))
    axis.barh(places, values, color=colors)
    for place_of_bar, value in zip(places, values, strict=True):
        axis.text(value + 1, place_of_bar, f"{value:.1f}", va="center", fontsize=7)
    axis.set_yticks(places, names, fontsize=7)
    axis.invert_yaxis()
    axis.set_xlim(0, 112)
    axis.set_xlabel("%")
    axis.set_title("recall and accuracy", fontsize=10)
