"""What a few labelled examples are worth: accuracy by method and number of examples of a class.

    python benchmarks/few_shot.py [CHECKPOINT] [--dataset data/digits] [--label_column label]
        [--templates plain] [--shots 1 2 4 8 16] [--json few_shot.json] [--save few_shot.png]

Examples are drawn from the training split, five times; what is classified is the validation split.
Prints mean and standard deviation over the draws, in percent. `linear_probe` is the logistic
regression of `clip-vit evaluate`, on the same examples.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure

from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.evaluation.evaluate import evaluate, open_evaluation
from modeling_clip_vit.evaluation.images import ImagesOnDisk
from modeling_clip_vit.evaluation.metrics import Metric
from modeling_clip_vit.evaluation.options import EvaluationOptions
from modeling_clip_vit.evaluation.tasks.few_shot import FewShotTask
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.utils.figures import figure_style


def measure(options: argparse.Namespace) -> list[Metric]:
    """The metrics of the evaluation task `few_shot`."""
    evaluation = EvaluationOptions(
        dataset=options.dataset,
        label_columns=options.label_column and [options.label_column],
        templates=options.templates,
        tasks=["few_shot"],
        shots=options.shots,
        num_workers=0,
    )
    source = open_evaluation(evaluation, open_dataset(options.dataset), ImagesOnDisk)
    report = evaluate(source, load_encoder(options.checkpoint), is_alone=True)
    assert report is not None, "this process does all the work"
    return report.metrics


def write_table(metrics: list[Metric]) -> str:
    """Markdown: a row for each method, a column for each number of examples."""
    cells: dict[str, dict[str, dict[str, float]]] = {}
    for metric in metrics:
        method, shots = metric.condition.split("/")
        cells.setdefault(method, {}).setdefault(shots, {})[metric.name] = 100 * metric.value
    columns = list(dict.fromkeys(shots for row in cells.values() for shots in row))
    lines = [f"| method | {' | '.join(columns)} |", "| --- " * (len(columns) + 1) + "|"]
    for method, row in cells.items():
        values = [
            f"{row[shots]['accuracy']:.1f} ± {row[shots]['accuracy_std']:.1f}"
            if shots in row
            else ""
            for shots in columns
        ]
        lines.append(f"| `{method}` | {' | '.join(values)} |")
    return "\n".join(lines)


@figure_style()
def draw(metrics: list[Metric], path: Path):
    """Accuracy over the number of examples, as the report of an evaluation draws it."""
    [panel] = FewShotTask().panels(metrics)
    figure = Figure(figsize=(5, 4), dpi=110)
    panel(figure.subplots())
    figure.tight_layout()
    figure.savefig(path)


def main():
    """Measure, print, write and draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", nargs="?", default="outputs/emoji")
    parser.add_argument("--dataset", default="data/digits")
    parser.add_argument("--label_column", help="guessed by default")
    parser.add_argument("--templates", nargs="+", default=["plain"])
    parser.add_argument("--shots", type=int, nargs="+", help="1, 2, 4, 8 and 16 by default")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, help="a picture")
    options = parser.parse_args()
    metrics = measure(options)
    print(write_table(metrics))
    if options.json:
        values = {metric.task_key: metric.value for metric in metrics}
        options.json.write_text(json.dumps(values, indent=2) + "\n")
    if options.save:
        draw(metrics, options.save)


if __name__ == "__main__":
    main()
