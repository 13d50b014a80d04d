"""Measure what saving a checkpoint costs: memory on top of a run's own, and time it waits.

    python benchmarks/checkpoints.py [--model clip-vit-base-patch32]
    accelerate launch --multi_gpu --num_processes 2 --main_process_port 0 benchmarks/checkpoints.py

Several processes share the model by FSDP2, over gloo on a CPU. Saves weights and AdamW's states by
`CheckpointWriter`, awaited and in the background; with `--gathered`, by Accelerate's `save_state`,
which gathers them on the main process. Memory is the largest resident size of a process while it
saves, less that before; it is sampled.
"""

import argparse
import ctypes
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from transformers import AutoConfig

sys.path.insert(0, str(Path(__file__).parent.parent))

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.training.checkpoint_writer import CheckpointWriter, Snapshot
from modeling_clip_vit.training.checkpoints import CheckpointStore
from modeling_clip_vit.utils.processes import gather_all
from modeling_clip_vit.utils.resources import find_resource
from tests.support.programs.check_sharding import start_sharded


class Peak:
    """The largest resident memory of this process in a context, less that before, in bytes."""

    def __enter__(self) -> "Peak":
        self.process, self.is_over, self.bytes = psutil.Process(), threading.Event(), 0
        self.before = self.process.memory_info().rss
        self.thread = threading.Thread(target=self.sample)
        self.thread.start()
        return self

    def sample(self):
        """Look every millisecond."""
        while not self.is_over.wait(0.001):
            self.bytes = max(self.bytes, self.process.memory_info().rss - self.before)

    def __exit__(self, *error):
        self.is_over.set()
        self.thread.join()


class NoProcessor:
    """Has nothing to save."""

    def save_pretrained(self, folder: Path):
        """Write nothing."""


def measure(save: Callable[[], None], finish: Callable[[], None], folder: Path) -> dict[str, float]:
    """Memory in MB, seconds that a run waits and until all is written, and the largest file."""
    if sys.platform == "linux":  # what was freed before is not used again
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    started = time.perf_counter()
    with Peak() as peak:
        save()
        waited = time.perf_counter() - started
        finish()
    seconds = time.perf_counter() - started
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        "memory": peak.bytes / 1e6,
        "waits": waited,
        "seconds": seconds,
        "files": sum(path.stat().st_size for path in files) / 1e6,
    }


def main():
    """Print a table with one line per way to save and process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="clip-vit-base-patch32")
    parser.add_argument("--gathered", action="store_true", help="measure save_state alone")
    options = parser.parse_args()
    torch.manual_seed(0)
    model = ClipVitModel(AutoConfig.from_pretrained(find_resource("model", options.model)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    is_alone = "WORLD_SIZE" not in os.environ
    accelerator = Accelerator(cpu=True) if is_alone else start_sharded()
    model, optimizer = accelerator.prepare(model, optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    rows = {}
    with tempfile.TemporaryDirectory(dir=".") as place:
        folder = Path(broadcast_object_list([place])[0]).resolve()
        writer = CheckpointWriter(CheckpointStore(str(folder), folder), accelerator, 1, True)
        ways = {} if options.gathered else {"awaited": True, "in the background": False}
        for step, (way, is_awaited) in enumerate(ways.items()):
            inner = optimizer.optimizer
            snapshot = Snapshot(
                accelerator.unwrap_model(model), inner, {"step": step}, {}, None, NoProcessor()
            )
            rows[way] = measure(
                lambda kept=snapshot, waits=is_awaited: writer.save(kept, waits),
                writer.wait,
                folder / f"step-{step:08d}",
            )
        if options.gathered:
            place = folder / "gathered"
            rows["save_state"] = measure(
                lambda: accelerator.save_state(str(place)), accelerator.wait_for_everyone, place
            )
        tables = gather_all(rows)
    accelerator.print(f"{options.model}, {len(tables)} processes, {torch.__version__}")
    accelerator.print("| way | process | memory MB | run waits s | written after s | files MB |")
    accelerator.print("| --- | --- | --- | --- | --- | --- |")
    for way in rows:
        for process, table in enumerate(tables):
            cells = table[way]
            accelerator.print(
                f"| {way} | {process} | {cells['memory']:.0f} | {cells['waits']:.2f} | "
                f"{cells['seconds']:.2f} | {cells['files']:.0f} |"
            )
    accelerator.end_training()


if __name__ == "__main__":
    main()
