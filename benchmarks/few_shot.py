"""What a few labelled examples are worth: accuracy by method and number of examples of a class.

    python benchmarks/few_shot.py [CHECKPOINT] [--dataset data/digits] [--label_column label]
        [--templates plain] [--shots 1 2 4 8 16] [--from_nothing] [--json few_shot.json]
        [--save few_shot.png]

Examples are drawn from the training split, five times; what is classified is the validation split.
Prints mean and standard deviation over the draws, in percent. `linear_probe` is the logistic
regression of `clip-vit evaluate`, on the same examples. With `--from_nothing`, a ViT with random
weights is trained on the same examples of data/digits, too, by the recipe `digits_classification`.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev

import torch
from datasets import load_dataset
from matplotlib.figure import Figure
from training_runs import ROOT, train

from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.evaluation.evaluate import evaluate, open_evaluation
from modeling_clip_vit.evaluation.images import ImagesOnDisk
from modeling_clip_vit.evaluation.metrics import Metric
from modeling_clip_vit.evaluation.options import EvaluationOptions
from modeling_clip_vit.evaluation.tasks.few_shot import NUM_DRAWS, FewShotTask
from modeling_clip_vit.inference.few_shot import draw_shots
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.utils.figures import figure_style

#: What changes of the recipe `digits_classification`, whose 60 epochs are some 700 updates of 128.
FROM_NOTHING = {"max_steps": 300, "eval_steps": 0, "report_to": "none", "bf16": False}


def train_from_nothing(shots: int, draw: int) -> float:
    """Accuracy on the validation split of a ViT trained on some examples of each digit alone."""
    splits = load_dataset(str(ROOT / "data" / "digits"))
    labels = torch.tensor(splits["train"]["label"])
    rows = draw_shots(labels, 10, shots, draw).tolist()
    with tempfile.TemporaryDirectory() as folder:
        data, out = Path(folder, "data"), Path(folder, "out")
        data.mkdir()
        splits["train"].select(rows).to_parquet(data / "train.parquet")
        splits["validation"].to_parquet(data / "validation.parquet")
        options = {"dataset": data, "output_dir": out, "seed": draw, **FROM_NOTHING}
        options["per_device_train_batch_size"] = min(128, len(rows))
        metrics = train("digits_classification", options)
    return next(value for name, value in metrics.items() if name.endswith("top1_accuracy"))


def measure_from_nothing(like: Metric, shots: list[int]) -> list[Metric]:
    """Accuracy of training from nothing, as metrics like that of another method."""
    metrics = []
    for count in shots:
        accuracies = [train_from_nothing(count, draw) for draw in range(NUM_DRAWS)]
        for name, value in {
            "accuracy": mean(accuracies),
            "accuracy_std": stdev(accuracies),
        }.items():
            condition = f"from_nothing/{count}-shot"
            metrics.append(replace(like, name=name, condition=condition, value=value))
    return metrics


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
    parser.add_argument("--from_nothing", action="store_true", help="for data/digits")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--save", type=Path, help="a picture")
    options = parser.parse_args()
    metrics = measure(options)
    if options.from_nothing:
        metrics += measure_from_nothing(metrics[0], options.shots or [1, 2, 4, 8, 16])
    print(write_table(metrics))
    if options.json:
        values = {metric.task_key: metric.value for metric in metrics}
        options.json.write_text(json.dumps(values, indent=2) + "\n")
    if options.save:
        draw(metrics, options.save)


if __name__ == "__main__":
    main()
