"""How fast the default recipe's batches are made, without a model: decoded once, or whenever read.

    python benchmarks/data_path.py [--batches 40] [--json data_path.json]

Prints a table, one line a way to load. Training at 1,000 images a second needs more than that.
"""

import argparse
import json
import time
from itertools import islice
from pathlib import Path

from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.preparation import prepare

RECIPE = Path(__file__).parent.parent / "configuration" / "train" / "emoji.yaml"
WAYS = {
    "decoded once, in the main process": ("true", 0),
    "decoded once, 2 workers": ("true", 2),
    "decoded when read, in the main process": ("false", 0),
    "decoded when read, 2 workers": ("false", 2),
}


def batches_of(loader, sampler):
    """Batches of one epoch after the other."""
    epoch = 0
    while True:
        sampler.set_epoch(epoch)
        yield from loader
        epoch += 1


def measure(cache_images: str, workers: int, count: int) -> tuple[float, float]:
    """Seconds until training could begin, and images a second from there on."""
    options = ["--cache_images", cache_images, "--dataloader_num_workers", str(workers)]
    started = time.perf_counter()
    data = prepare(parse_arguments([*options, "--eval_split", "null"], RECIPE)).data
    ready = time.perf_counter() - started
    batches = batches_of(data.loader, data.sampler)
    next(batches)  # starts the workers
    started = time.perf_counter()
    images = sum(len(batch["image_ids"]) for batch in islice(batches, count))
    return ready, images / (time.perf_counter() - started)


def main():
    """Measure every way and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batches", type=int, default=40)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print("| way | ready after | images/s |\n| --- | --- | --- |")
    for way, (cache_images, workers) in WAYS.items():
        ready, speed = measure(cache_images, workers, options.batches)
        rows.append({"way": way, "ready_seconds": ready, "images_per_second": speed})
        print(f"| {way} | {ready:.1f} s | {speed:,.0f} |")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
