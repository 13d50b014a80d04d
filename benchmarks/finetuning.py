"""What fine-tuning learns and what it forgets: digits learned by a model of emoji, in several ways.

    python benchmarks/finetuning.py CHECKPOINT [--epochs 12] [--seed 0] [--methods NAME ...]
        [--json FILE] [--figure FILE]

CHECKPOINT is a model of data/emoji. Each method fine-tunes it on data/digits by the recipe
`finetune_classes` with other options, in a process of its own, and measures the models between
start and end: accuracy on 364 unseen digits by their names, and mean R@1 of English and Chinese
texts among 1,439 emoji by an artist whom it never saw. A row tells both at the end, and at the
share of the end with the highest accuracy among those that keep 95 % of R@1. Replay trains on as
many pictures of emoji, too, for as many updates. Seconds are those of
training alone; memory is the largest of the process.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from datasets import concatenate_datasets, load_dataset
from matplotlib.figure import Figure

from modeling_clip_vit.data.templates import load_templates

ROOT = Path(__file__).parent.parent
#: What each method changes of the recipe.
METHODS: dict[str, dict] = {
    "all weights": {},
    "L2-SP": {"l2_sp_weight": 0.1, "weight_decay": 0},
    "distillation": {"teacher_name_or_path": "start", "distillation_weight": 0.7},
    "LoRA": {"peft_type": "LORA", "learning_rate": 3e-3},
    "LoRA, image tower": {"peft_type": "LORA", "lora_text_rank": 0, "learning_rate": 3e-3},
    "replay": {"dataset": "replay"},
    "replay, distillation": {"dataset": "replay", "teacher_name_or_path": "start"},
}
COMMON = {
    "teacher_name_or_path": None,
    "distillation_weight": 0.5,
    "layer_decay": 1.0,
    "learning_rate": 1e-3,
    "wise_ft": [0, 0.2, 0.4, 0.6, 0.8, 1],
    "wise_ft_alpha": 1.0,
    "evaluations": [
        {
            "name": "validation",
            "dataset": "data/digits",
            "split": "validation",
            "tasks": ["zero_shot"],
            "label_columns": ["label"],
            "templates": ["digits_en"],
        },
        {
            "name": "emoji",
            "dataset": "data/emoji",
            "split": "validation",
            "tasks": ["retrieval"],
            "caption_columns": ["caption_en", "caption_zh"],
            "concept_column": "hexcode",
        },
    ],
    "report_to": "none",
    "bf16": False,
}
#: What replay changes of the recipe: both kinds of pictures have the same columns.
REPLAY = {
    "caption_columns": ["caption_en", "caption_zh"],
    "concept_column": "concept",
    "label_column": None,
    "label_templates": ["en"],
    "label_names": {},
}
#: Share of the start's R@1 that is to be kept.
KEPT = 0.95


def write_replay(folder: Path):
    """Digits with captions made of their names, and as many pictures of emoji."""
    digits = load_dataset(str(ROOT / "data" / "digits"), split="train")
    emoji = load_dataset(str(ROOT / "data" / "emoji"), split="train")
    names = {"en": digits.features["label"].names, "zh": "零一二三四五六七八九"}
    phrases = {one: load_templates(f"digits_{one}") for one in names}

    def describe_digit(row: dict) -> dict:
        texts = {
            f"caption_{one}": [phrase.format(names[one][row["label"]]) for phrase in phrases[one]]
            for one in names
        }
        return {**texts, "concept": names["en"][row["label"]]}

    def describe_emoji(row: dict) -> dict:
        texts = {f"caption_{one}": [row[f"caption_{one}"]] for one in names}
        return {**texts, "concept": row["hexcode"]}

    old = emoji.shuffle(seed=0).select(range(len(digits)))
    new = digits.map(describe_digit, remove_columns=["label"])
    others = [name for name in emoji.column_names if name != "image"]
    old = old.map(describe_emoji, remove_columns=others).cast(new.features)
    concatenate_datasets([new, old]).to_parquet(folder / "train.parquet")


def fine_tune(options: dict, folder: Path) -> dict:
    """Train in a process of its own; returns what it measured."""
    if options.get("dataset") == "replay":
        (folder / "replay").mkdir()
        write_replay(folder / "replay")
        options = {**options, **REPLAY, "dataset": str(folder / "replay")}
    recipe = folder / "changes.yaml"
    recipe.write_text(json.dumps({**options, "output_dir": str(folder / "out")}))  # JSON is YAML
    command = [sys.executable, str(ROOT / "train.py"), "--config", "finetune_classes"]
    done = subprocess.run([*command, "--config", str(recipe)], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    content = json.loads((folder / "out" / "metrics.json").read_text())
    lines = [json.loads(line) for line in (folder / "out" / "training_log.jsonl").open()]
    return {
        "seconds": content["train_seconds"],
        "megabytes": max(line.get("memory_megabytes", 0) for line in lines),
        "curve": [(one["alpha"], *learned_and_kept(one["metrics"])) for one in content["wise_ft"]],
    }


def learned_and_kept(metrics: dict[str, float]) -> tuple[float, float]:
    """Accuracy on digits, and R@1 on emoji."""
    accuracy = metrics["validation/zero_shot/label/accuracy"]
    recalls = [metrics[f"emoji/caption_{one}/text_to_image/R@1"] for one in ("en", "zh")]
    return accuracy, sum(recalls) / len(recalls)


def best_of(curve: list[tuple[float, float, float]]) -> tuple[float, float, float]:
    """The point with the highest accuracy among those that keep enough."""
    start = curve[0][2]
    return max((point for point in curve if point[2] >= KEPT * start), key=lambda point: point[1])


def describe(name: str, result: dict) -> str:
    """A row of the table."""
    start, end = result["curve"][0], result["curve"][-1]
    alpha, accuracy, recall = best_of(result["curve"])
    cells = [
        name,
        f"{100 * end[1]:.1f}",
        f"{100 * end[2]:.1f} ({100 * end[2] / start[2]:.0f} %)",
        f"{alpha:g}",
        f"{100 * accuracy:.1f}",
        f"{100 * recall:.1f} ({100 * recall / start[2]:.0f} %)",
        f"{result['seconds']:.0f} s",
        f"{result['megabytes']:.0f} MB",
    ]
    return f"| {' | '.join(cells)} |"


def draw(results: dict[str, dict], path: Path):
    """Draw what each method learned against what it kept, from its start to its end."""
    figure = Figure(figsize=(7, 5), dpi=110)
    axis = figure.subplots()
    for name, result in results.items():
        _, accuracies, recalls = zip(*result["curve"], strict=True)
        axis.plot(
            [100 * value for value in recalls],
            [100 * value for value in accuracies],
            marker="o",
            markersize=3,
            label=name,
        )
    start = next(iter(results.values()))["curve"][0]
    axis.axvline(100 * KEPT * start[2], color="gray", linestyle="--", linewidth=1)
    axis.axhline(97, color="gray", linestyle="--", linewidth=1)
    axis.set_xlabel("kept: R@1 on emoji, %")
    axis.set_ylabel("learned: accuracy on digits, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path)


def main():
    """Fine-tune by each method, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    args = parser.parse_args()
    start = {
        "model_name_or_path": str(Path(args.checkpoint).resolve()),
        "num_train_epochs": args.epochs,
        "seed": args.seed,
    }
    # As many updates, though the old pictures double the data.
    halved = {"num_train_epochs": args.epochs / 2}
    results: dict[str, dict] = {}
    print("| method | digits | emoji R@1 | best share | digits | emoji R@1 | training | memory |")
    print("| --- " * 8 + "|")
    for name in args.methods:
        with tempfile.TemporaryDirectory() as folder:
            is_replay = METHODS[name].get("dataset") == "replay"
            options = {**COMMON, **start, **(halved if is_replay else {}), **METHODS[name]}
            results[name] = fine_tune(options, Path(folder))
        print(describe(name, results[name]), flush=True)
        if args.json:
            args.json.write_text(json.dumps(results, indent=2) + "\n")
    if args.figure:
        draw(results, args.figure)


if __name__ == "__main__":
    main()
