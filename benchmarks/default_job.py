"""Where the time of the default job goes: before the first update, in an update, after the last.

    python benchmarks/default_job.py [--config emoji] [--steps 60] [--json FILE]

Times the first --steps updates, or with --steps 0 the whole run with its evaluation and its files.
Prints the speed of torch's matrix product on the device that trains, in float32 and bfloat16, and
the share of it that the updates reach. On a GPU, each part waits for the device, so that an update
takes longer than in a run. The operations of an update are those of matrix products and
convolutions in the forward pass, the backward pass and the optimiser, as torch counts them.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

from devices import describe_device, multiply_rates
from torch.utils.flop_counter import FlopCounterMode

from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.results import finish_run
from modeling_clip_vit.training.trainer import Trainer, build_trainer
from modeling_clip_vit.utils.devices import default_device, synchronize

#: Updates that are left out of the medians, while kernels and memory settle.
WARM_UP = 5


class Clock:
    """Seconds spent in parts of an update, of the device's work too."""

    def __init__(self, device: str):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    def wrap(self, part: str, function: Callable) -> Callable:
        """The function, its time added to a part."""

        def timed(*args, **kwargs):
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                synchronize(self.device)
                self.seconds[part] += time.perf_counter() - started

        return timed

    def take(self) -> dict[str, float]:
        """Seconds spent in each part since the last call; resets the clock."""
        seconds, self.seconds = dict(self.seconds), defaultdict(float)
        return seconds


def measure(training: Trainer, steps: int) -> tuple[list[dict[str, float]], float]:
    """Seconds of each part of each update, and the operations of one."""
    clock, updates, operations = Clock(training.accelerator.device.type), [], 0.0
    training.model.forward = clock.wrap("forward", training.model.forward)
    training.accelerator.backward = clock.wrap("backward", training.accelerator.backward)
    training.optimizer.step = clock.wrap("optimiser", training.optimizer.step)
    batches = training.batches()
    training.set_training_mode()
    for step in range(steps):
        started = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        clock.seconds["data"] = time.perf_counter() - started
        if step == WARM_UP - 1:
            with FlopCounterMode(display=False) as counter:
                training.train_step(batch)
            operations = float(counter.get_total_flops())
        else:
            training.train_step(batch)
        training.progress.step += 1
        parts = clock.take()
        parts["whole"] = time.perf_counter() - started
        parts["rest"] = parts["whole"] - sum(v for name, v in parts.items() if name != "whole")
        updates.append(parts)
    return updates[WARM_UP:], operations


def main():
    """Measure, print, and write what was measured."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="emoji")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--json", type=Path)
    options, fields = parser.parse_known_args()
    device = default_device().type
    speeds = multiply_rates(device)
    with tempfile.TemporaryDirectory() as folder:
        recipe = ["--config", options.config, "--report_to", "none", "--output_dir", folder]
        begun = time.perf_counter()
        training = build_trainer(parse_arguments([*recipe, "--save_steps", "0", *fields]))
        before = time.perf_counter() - begun
        result = {
            "device": describe_device(device),
            "gflops": {name: round(speed / 1e9) for name, speed in speeds.items()},
            "precision": training.precision.autocast,
            "seconds_before_the_first_update": before,
        }
        if options.steps == 0:
            training.run()
            seconds = training.progress.seconds
            images = training.progress.images
            started = time.perf_counter()
            finish_run(training)
            result["seconds_after_the_last_update"] = time.perf_counter() - started
            result |= {"updates": training.progress.step, "seconds_of_training": seconds}
            result["seconds_in_all"] = time.perf_counter() - begun
            result["images_per_second"] = images / seconds
        else:
            updates, operations = measure(training, options.steps)
            names = ("data", "forward", "backward", "optimiser", "rest", "whole")
            parts = {n: statistics.median(u.get(n, 0.0) for u in updates) for n in names}
            peak = speeds["bfloat16" if training.precision.autocast == "bf16" else "float32"]
            rate = operations / parts["whole"]
            result |= {
                "milliseconds_of_an_update": {n: round(1e3 * v, 1) for n, v in parts.items()},
                "gflop_of_an_update": operations / 1e9,
                "gflops_of_training": rate / 1e9,
                "share_of_the_peak": rate / peak,
                "images_per_second": training.args.optimizer.per_device_train_batch_size
                / parts["whole"],
            }
    print(json.dumps(result, indent=2, ensure_ascii=False))
    if options.json:
        options.json.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
