"""What storing the features of frozen towers saves, at the size of ViT-B/32.

    python benchmarks/stored_features.py [--rows 192] [--batch 32] [--steps 4] [--rounds 3]
        [--json FILE]

Trains clip-vit-base-patch32 with random weights on the first rows of data/emoji, at 224 pixels,
with the image tower frozen (LiT), and with both towers frozen, so that only the projections and the
scale learn. Each is timed with the features computed in every step and with stored ones, in turns,
from the images on the disk to the updated weights; what storing costs is printed too.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

from datasets import Dataset, load_dataset
from devices import describe_device, multiply_rates

from modeling_clip_vit.training import stored_features
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.trainer import Trainer, build_trainer
from modeling_clip_vit.utils.devices import default_device, synchronize

#: Which towers are frozen.
CASES = {"image tower frozen": "[vision]", "both towers frozen": "[vision, text]"}
#: Updates before the timed ones.
WARM_UP = 2


def write_rows(folder: Path, count: int):
    """The first rows of data/emoji with one caption each, as Parquet."""
    split = load_dataset("parquet", data_files="data/emoji/data/train-*.parquet", split="train")
    rows: Dataset = split.select(range(count)).select_columns(["image", "caption_en"])
    rows.to_parquet(folder / "train.parquet")


def build(folder: Path, frozen: str, views: str, batch: int, name: str) -> tuple[Trainer, float]:
    """A trainer, and how many seconds it took to build."""
    started = time.perf_counter()
    arguments = {
        "dataset": folder,
        "caption_columns": "[caption_en]",
        "model_config": "clip-vit-base-patch32",
        "evaluations": "[]",
        "frozen_towers": frozen,
        "stored_views": views,
        "per_device_train_batch_size": batch,
        "num_train_epochs": 1000,
        "save_steps": 0,
        "report_to": "none",
        "cache_images": "false",
        "output_dir": folder / name,
    }
    pairs = [text for name, value in arguments.items() for text in (f"--{name}", str(value))]
    return build_trainer(parse_arguments(pairs)), time.perf_counter() - started


def time_steps(trainer: Trainer, batches, steps: int) -> float:
    """Seconds per update."""
    device = trainer.accelerator.device.type
    synchronize(device)
    started = time.perf_counter()
    for _ in range(steps):
        trainer.train_step(next(batches))
        trainer.progress.step += 1
    synchronize(device)
    return (time.perf_counter() - started) / steps


def compare(folder: Path, frozen: str, options: argparse.Namespace) -> dict:
    """Seconds per update with computed and with stored features."""
    trainers = {}
    seconds_to_build = {}
    for way, views in {"computed": "0", "stored": "null"}.items():
        name = f"{way}{len(frozen)}"
        trainers[way], seconds_to_build[way] = build(folder, frozen, views, options.batch, name)
    runs = {}
    for way, trainer in trainers.items():
        trainer.set_training_mode()
        runs[way] = trainer, trainer.batches()
        time_steps(*runs[way], WARM_UP)
    # A step with stored features is so short that more of them are needed to time one.
    counts = {"computed": options.steps, "stored": 25 * options.steps}
    times: dict[str, list[float]] = {way: [] for way in runs}
    for _ in range(options.rounds):
        for way, run in runs.items():
            times[way].append(time_steps(*run, counts[way]))
    medians = {way: statistics.median(values) for way, values in times.items()}
    return {
        "seconds_per_update": medians,
        "times_as_fast": medians["computed"] / medians["stored"],
        "seconds_to_store": seconds_to_build["stored"] - seconds_to_build["computed"],
        "precision": str(trainers["stored"].precision.autocast),
    }


def main():
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    device = default_device().type
    speeds = multiply_rates(device)
    result: dict = {
        "device": describe_device(device),
        "gflops": {name: round(speed / 1e9) for name, speed in speeds.items()},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        stored_features.FOLDER = folder / "features"
        (folder / "data").mkdir()
        write_rows(folder / "data", options.rows)
        for case, frozen in CASES.items():
            result[case] = compare(folder / "data", frozen, options)
            print(json.dumps({case: result[case]}, indent=2))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
