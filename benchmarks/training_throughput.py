"""Whole training steps of a CLIP against open_clip's and Transformers': from inputs to an update.

    python benchmarks/training_throughput.py [--batch 64] [--rounds 6] [--precision fp32 bf16]
    python benchmarks/training_throughput.py --tokens 77 --batch 1024 --engines ours open_clip

All start from the same weights, with the same batch, optimiser and precision, and take turns within
every round. By default they read pictures and captions of data/emoji at 224 pixels, each in its own
way: ours pads texts to the longest of the batch, open_clip to 77 tokens. Then both train on the
very same tensors, and the losses of the two are compared step by step.

With --tokens, random images and texts of that mean length stay on the device, so that only the
steps are timed. MFU is then the share of the card's peak that the operations of images and texts
take, those of padding and recomputation left out.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from devices import (
    TENSOR_PEAKS,
    MemoryMeter,
    add_device_option,
    describe_device,
    gigabytes,
    multiply_rates,
)
from training_engines import (
    OUR_OPTIONS,
    PADDED_LENGTH,
    PEERS,
    Engine,
    OpenClipEngine,
    RandomInputs,
    Setup,
    build_engine,
    save_start,
    start_ours,
)
from transformers import AutoConfig

from modeling_clip_vit.utils.devices import synchronize


def operations_per_pair(config: Any, tokens: float) -> float:
    """Operations of matrix products for an image and its text, forward and backward.

    A multiplication and an addition are two; the backward pass takes twice those of the forward.
    """
    vision, text = config.vision_config, config.text_config
    patches = (vision.image_size // vision.patch_size) ** 2
    embedding = 2 * patches * 3 * vision.patch_size**2 * vision.hidden_size
    towers = 0.0
    for tower, length in ((vision, patches + 1), (text, tokens)):
        weights = 4 * tower.hidden_size**2 + 2 * tower.hidden_size * tower.intermediate_size
        block = length * (2 * weights + 4 * length * tower.hidden_size)
        towers += tower.num_hidden_layers * block
    return 3 * (embedding + towers)


class Contest:
    """Engines that take turns.

    Args:
        setup: what they have in common.
        names: of the engines.
        inputs: what they train on; None for data/emoji, which each reads in its own way.
        steps: of an engine in a round.
    """

    def __init__(self, setup: Setup, names: list[str], inputs: RandomInputs | None, steps: int):
        self.setup, self.steps = setup, steps
        self.engines: dict[str, Engine] = {}
        self.memory: dict[str, float | None] = {}
        self.times: dict[str, list[float]] = {}
        torch.backends.cuda.matmul.allow_tf32 = setup.precision == "tf32"
        torch.backends.cudnn.allow_tf32 = setup.precision != "fp32"
        for name in names:
            try:
                self.admit(name, inputs)
            except torch.OutOfMemoryError:
                print(f"| {setup.precision} | {name} | does not fit |", flush=True)
                self.engines.pop(name, None)
                gc.collect()
                torch.cuda.empty_cache()

    def admit(self, name: str, inputs: RandomInputs | None):
        """Build an engine, let it warm up, and see how much memory it needs."""
        meter = MemoryMeter(self.setup.device)
        engine = self.engines[name] = build_engine(self.setup, name, inputs)
        engine.step()
        meter.watch()
        for _ in range(2):
            engine.step()
        self.memory[name], self.times[name] = meter.peak(), []

    def run(self, rounds: int):
        """Time them in turns: seconds of a step, the mean of a round."""
        for _ in range(rounds):
            for name, engine in self.engines.items():
                synchronize(self.setup.device)
                started = time.perf_counter()
                for _ in range(self.steps):
                    loss = engine.step()
                float(loss)
                synchronize(self.setup.device)
                self.times[name].append((time.perf_counter() - started) / self.steps)

    def report(self, operations: float | None, peak: float) -> dict:
        """Print a line for each engine; returns the figures."""
        middle = {name: statistics.median(values) for name, values in self.times.items()}
        figures = {}
        for name, values in self.times.items():
            rate = self.setup.batch / middle[name]
            ratio = f"{middle['open_clip'] / middle[name]:.2f}" if "open_clip" in middle else "–"
            share = None if operations is None else operations * rate / peak
            print(
                f"| {self.setup.precision} | {name} | {min(values):.3f} s | {middle[name]:.3f} s "
                f"| {max(values):.3f} s | {rate:,.1f} | {ratio} | {gigabytes(self.memory[name])} "
                f"| {'–' if share is None else f'{100 * share:.0f} %'} |",
                flush=True,
            )
            figures[name] = {
                "seconds": values,
                "pairs_per_second": rate,
                "peak_bytes": self.memory[name],
                "share_of_the_peak": share,
            }
        return figures


def compare_losses(setup: Setup, steps: int) -> list[tuple[float, float]]:
    """Losses of ours and open_clip on the very same tensors."""
    ours, theirs = start_ours(setup), OpenClipEngine(setup, "open_clip", None)
    losses = []
    for number, tensors in zip(range(steps), ours.batches(), strict=False):
        images = tensors["pixel_values"]
        texts = torch.nn.functional.pad(
            tensors["input_ids"] * tensors["attention_mask"],
            (0, PADDED_LENGTH - tensors["input_ids"].shape[1]),
        )
        mine = float(ours.train_step(tensors)["loss"])
        ours.progress.step += 1
        losses.append((mine, float(theirs.train(images, texts))))
        print(f"step {number + 1}: ours {losses[-1][0]:.5f}, open_clip {losses[-1][1]:.5f}")
    largest = max(abs(a - b) for a, b in losses)
    print(f"largest difference over {steps} steps: {largest:.1e}")
    return losses


def measure(options: argparse.Namespace, folder: Path) -> dict:
    """Print the table; returns the figures."""
    device, start = options.device, folder / "start"
    save_start(start, options.model)
    config = AutoConfig.from_pretrained(start)
    rates = multiply_rates(device)
    print(f"{options.model}, batch {options.batch}, {describe_device(device)}")
    print(", ".join(f"{name} product {rate / 1e12:.1f} TFLOP/s" for name, rate in rates.items()))
    print("| precision | engine | min | median | max | pairs/s | times open_clip | memory | MFU |")
    print("| --- " * 9 + "|")
    result: dict = {"device": describe_device(device), "rates": rates}
    for precision in options.precision:
        setup = Setup(start, folder, device, options.batch, precision, options.workers)
        inputs, operations = None, None
        if options.tokens:
            inputs = RandomInputs(setup, config.vision_config.image_size, options.tokens)
            operations = operations_per_pair(config, inputs.mean_length)
        contest = Contest(setup, options.engines, inputs, options.steps)
        contest.run(options.rounds)
        name = torch.cuda.get_device_name() if device == "cuda" else device
        peak = rates["bfloat16" if precision == "bf16" else "float32"]
        if precision == "bf16":
            peak = TENSOR_PEAKS.get(name, peak)
        result[precision] = contest.report(operations, peak)
        contest.engines.clear()
        gc.collect()
    if options.loss_steps and not options.tokens:
        setup = Setup(start, folder, device, options.loss_batch, "fp32")
        result["losses"] = compare_losses(setup, options.loss_steps)
    return result


def main():
    """Measure, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device_option(parser)
    parser.add_argument("--model", default="clip-vit-base-patch32")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--steps", type=int, default=1, help="of an engine in a round")
    parser.add_argument(
        "--precision", nargs="*", choices=["fp32", "tf32", "bf16"], default=["fp32", "bf16"]
    )
    parser.add_argument(
        "--engines", nargs="+", choices=[*OUR_OPTIONS, *PEERS], default=["ours", "open_clip"]
    )
    parser.add_argument("--tokens", type=int, help="mean length of random texts, at most 77")
    parser.add_argument("--workers", type=int, default=0, help="processes that read data/emoji")
    parser.add_argument("--loss_steps", type=int, default=20)
    parser.add_argument("--loss_batch", type=int, default=16)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
