"""Tables and pictures of what benchmarks/ablation.py measured.

    python benchmarks/ablation_report.py

Writes the table of each group into docs/experiments.md and docs/experiments.zh-CN.md, between the
lines `<!-- GROUP -->` and `<!-- end -->`, and draws docs/experiments.png.
"""

import argparse
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

import yaml
from ablation import RESULTS, ROOT, ROWS, Row, read_results, read_rows

DOCUMENTS = {"en": ROOT / "docs" / "experiments.md", "zh": ROOT / "docs" / "experiments.zh-CN.md"}
HEADS = {
    "en": "| what | steps | images/s | equal steps, % | equal time, % |",
    "zh": "| 设置 | 步数 | 图像/秒 | 相同步数，% | 相同时间，% |",
}


@dataclass
class Figure:
    """A figure over several seeds, in percent."""

    values: list[float]

    @property
    def mean(self) -> float:
        return statistics.mean(self.values)

    @property
    def deviation(self) -> float:
        """Standard deviation over seeds; 0 for one."""
        return statistics.stdev(self.values) if len(self.values) > 1 else 0.0

    def __str__(self) -> str:
        return (
            f"{self.mean:.1f} ± {self.deviation:.1f}"
            if len(self.values) > 1
            else (f"{self.mean:.1f} (one seed)")
        )


@dataclass
class Summary:
    """What a row reached.

    Args:
        steps: number of updates per run.
        speed: images per second, the median over seeds.
        equal_steps: the figure at the end of its runs.
        equal_time: the figure after the training time that its group allows.
        ended_before: whether a run ended before that time; a longer one might have reached more.
    """

    steps: int
    speed: float
    equal_steps: Figure
    equal_time: Figure
    ended_before: bool


def summarize(row: Row, results: dict, seconds: float) -> Summary | None:
    """A row over all seeds that were run; None where none was."""
    prefix = row.key(0).removesuffix("0")
    runs = [result for key, result in results.items() if key.startswith(prefix)]
    if not runs:
        return None
    return Summary(
        steps=runs[0]["curve"][-1][0],
        speed=statistics.median(run["images_per_second"] for run in runs),
        equal_steps=Figure([100 * run["curve"][-1][1] for run in runs]),
        equal_time=Figure([100 * at_time(run, seconds) for run in runs]),
        ended_before=any(seconds / run["step_seconds"] > run["curve"][-1][0] for run in runs),
    )


def at_time(run: dict, seconds: float) -> float:
    """The figure of a run after some seconds of training, interpolated on its curve."""
    step = seconds / run["step_seconds"]
    before = (0, 0.0)
    for point in run["curve"]:
        if point[0] >= step:
            share = (step - before[0]) / (point[0] - before[0])
            return before[1] + share * (point[1] - before[1])
        before = point
    return before[1]


def table(summaries: dict[str, Summary], names: dict[str, str], language: str) -> str:
    """A group's table in Markdown; what leads each column is bold."""
    lines = [HEADS[language], "| --- | --- | --- | --- | --- |"]
    best = [
        max(summaries.values(), key=lambda summary: figure(summary).mean, default=None)
        for figure in (lambda summary: summary.equal_steps, lambda summary: summary.equal_time)
    ]
    for name, summary in summaries.items():
        time = f"{summary.equal_time}{' †' if summary.ended_before else ''}"
        cells = [str(summary.equal_steps), time]
        bold = [
            f"**{cell}**" if summary is first else cell
            for cell, first in zip(cells, best, strict=True)
        ]
        lines.append(
            f"| {names.get(name, name)} | {summary.steps} | {summary.speed:,.0f} | "
            f"{bold[0]} | {bold[1]} |"
        )
    return "\n".join(lines)


def put_table(document: Path, group: str, text: str):
    """Replace a group's table in a document.

    Raises:
        ValueError: the document has no place for it.
    """
    content = document.read_text(encoding="utf-8")
    place = re.compile(rf"(<!-- {re.escape(group)} -->\n).*?(<!-- end -->)", re.DOTALL)
    if not place.search(content):
        raise ValueError(f"{document} has no line '<!-- {group} -->' with '<!-- end -->' behind it")
    document.write_text(place.sub(lambda found: f"{found[1]}{text}\n{found[2]}", content))


def draw(groups: dict[str, dict[str, Summary]], path: Path):
    """A panel for each group: its rows at equal steps and at equal time."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    columns = 3
    heights = [
        max(len(rows) for rows in list(groups.values())[start : start + columns])
        for start in range(0, len(groups), columns)
    ]
    figure, axes = pyplot.subplots(
        len(heights),
        columns,
        figsize=(15, 1.2 * len(heights) + 0.36 * sum(heights)),
        height_ratios=[height + 2 for height in heights],
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat[len(groups) :]:
        axis.axis("off")
    for axis, (group, rows) in zip(axes.flat, groups.items(), strict=False):
        for shift, kind, marker in ((-0.12, "equal_steps", "o"), (0.12, "equal_time", "s")):
            figures = [getattr(summary, kind) for summary in rows.values()]
            axis.errorbar(
                [value.mean for value in figures],
                [place + shift for place in range(len(figures))],
                xerr=[value.deviation for value in figures],
                fmt=marker,
                markersize=5,
                capsize=3,
                label=kind.replace("_", " "),
            )
        axis.set_yticks(range(len(rows)), list(rows))
        axis.invert_yaxis()
        axis.set_title(group)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main():
    """Write tables and picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    described = yaml.safe_load(ROWS.read_text(encoding="utf-8"))
    results = read_results(options.results)
    groups: dict[str, dict[str, Summary]] = {}
    for row in read_rows():
        summary = summarize(row, results, described["recipes"][row.recipe]["seconds"])
        if summary:
            groups.setdefault(row.group, {})[row.name] = summary
    for group, summaries in groups.items():
        for language, document in DOCUMENTS.items():
            names = described["groups"][group].get(language, {})
            put_table(document, group, table(summaries, names, language))
    draw(groups, ROOT / "docs" / "experiments.png")


if __name__ == "__main__":
    main()
