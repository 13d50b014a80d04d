"""Whether batches come as fast as a device trains on them.

    python benchmarks/input_pipeline.py [--batch 256] [--workers 14] [--widths 640 340]

A CLIP trains on JPEGs that workers stream from WebDataset tars, decode and crop to the size of the
model. Timed are the loader without a model, updates on one batch that stays on the device, and both
together, which should take no longer than the slower of the two.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import islice, repeat
from pathlib import Path

import numpy as np
import torch
from data_path import draw_photo, write_tar
from devices import add_device_option, describe_device
from training_engines import Setup, save_start, start_ours

from modeling_clip_vit.training.trainer import Trainer
from modeling_clip_vit.utils.devices import synchronize

#: Options of the recipe beside the data: augmentation as strong as the default recipe's.
AUGMENTED = {"rotation": "15", "zoom": "0.2", "brightness": "0.1", "contrast": "0.2"}


def write_shard(folder: Path, width: int, samples: int, shard: int):
    """One tar of photographs."""
    rng = np.random.default_rng(shard)
    images = [draw_photo(rng, width) for _ in range(samples)]
    captions = [f"a photo, number {n} of {shard}" + ", far away" * (n % 5) for n in range(samples)]
    write_tar(folder / f"{shard:05d}.tar", images, captions)


def write_shards(folder: Path, width: int, shards: int, samples: int):
    """Tars of photographs, by all processors."""
    folder.mkdir()
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(write_shard, folder, width, samples), range(shards)))


def start(setup: Setup, tars: Path, **options: str) -> Trainer:
    """Our engine on a stream of tars."""
    return start_ours(
        setup,
        stream_sources=json.dumps([str(tars)]),
        samples_per_epoch="10000000",
        shuffle_buffer_size="64",
        caption_columns="[caption]",
        loss="multi_positive",
        **options,
    )


def batches_of(training: Trainer, warm_up: int) -> Iterator[dict]:
    """The batches, once workers have begun and what they prepared ahead is used up."""
    batches = training.batches()
    for _ in range(warm_up):
        next(batches)
    return batches


def rate(training: Trainer, batches: Iterator[dict], steps: int, updates: bool = True) -> float:
    """Pairs a second of loading batches, and of updates with them."""
    device = training.accelerator.device.type
    synchronize(device)
    started = time.perf_counter()
    images = 0
    for batch in islice(batches, steps):
        images += len(batch["image_ids"])
        if updates:
            training.train_step(batch)
            training.progress.step += 1
    synchronize(device)
    return images / (time.perf_counter() - started)


def measure(setup: Setup, tars: Path, options: argparse.Namespace, **fields: str) -> dict:
    """Pairs a second of each part."""
    training = start(setup, tars, **fields)
    batches = batches_of(training, 3 * max(1, setup.workers))
    loading = rate(training, batches, options.steps, updates=False)
    same = repeat(next(batches))
    rate(training, same, 3)  # warms up
    updating = rate(training, same, options.steps)
    # What was prepared ahead in the meantime is used up first.
    rate(training, batches, 3 * max(1, setup.workers))
    training.reader.take_waiting()
    started = time.perf_counter()
    both = rate(training, batches, options.steps)
    waited = training.reader.take_waiting() / (time.perf_counter() - started)
    return {"loader": loading, "updates": updating, "both": both, "waited": waited}


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device_option(parser)
    parser.add_argument("--model", default="clip-vit-base-patch32")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=max(1, (os.cpu_count() or 1) - 2))
    parser.add_argument("--widths", type=int, nargs="+", default=[640, 340], help="of a JPEG")
    parser.add_argument("--shards", type=int, default=32)
    parser.add_argument("--samples", type=int, default=24, help="in a shard")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    print(
        f"{options.model}, batch {options.batch}, {options.workers} workers, "
        f"{os.cpu_count()} cores, {describe_device(options.device)}"
    )
    print("| JPEGs | augmented | loader | updates | both | waited |\n" + "| --- " * 6 + "|")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_start(folder / "start", options.model)
        precision = "bf16" if options.device == "cuda" else "fp32"
        setup = Setup(
            *(folder / "start", folder / "out", options.device),
            *(options.batch, precision, options.workers),
        )
        for width in options.widths:
            write_shards(folder / str(width), width, options.shards, options.samples)
            for is_augmented in (False, True):
                fields = AUGMENTED if is_augmented else {}
                found = measure(setup, folder / str(width), options, **fields)
                rows.append({"width": width, "augmented": is_augmented, **found})
                rates = " | ".join(f"{found[part]:,.0f}" for part in ("loader", "updates", "both"))
                size = f"{width} x {width * 3 // 4}"
                kind = "yes" if is_augmented else "no"
                print(f"| {size} | {kind} | {rates} | {100 * found['waited']:.0f} % |", flush=True)
    result = {
        "model": options.model,
        "batch": options.batch,
        "workers": options.workers,
        "cores": os.cpu_count(),
        "rows": rows,
    }
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // 4))
    main()
