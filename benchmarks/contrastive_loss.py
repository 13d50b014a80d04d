"""Time and memory of the contrastive loss, forward and backward, against open_clip and a formula.

    python benchmarks/contrastive_loss.py [--batch 8192] [--rounds 5]
    python benchmarks/contrastive_loss.py --memory 1024 4096 16384 65536 131072 [--plot FILE]

The first command prints the time of each loss; the losses take turns within every round, so that a
busy machine slows all of them alike. The second prints how much memory each loss adds to that of
the embeddings and their gradients, on a CPU in a process of its own; runs that would not fit are
left out.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from devices import MemoryMeter, add_device_option, describe_device
from torch.nn.functional import cross_entropy, normalize

from modeling_clip_vit.losses import ClipLoss
from modeling_clip_vit.utils.devices import synchronize

SIZE, SCALE = 512, 50.0


def plain_formula(images, texts, scale):
    """One matrix, and softmax along its rows and its columns."""
    logits = scale * images @ texts.t()
    diagonal = torch.arange(len(logits), device=logits.device)
    return (cross_entropy(logits, diagonal) + cross_entropy(logits.t(), diagonal)) / 2


def best_plain_formula(images, texts, scale):
    """The same with as few passes over the matrix as torch has operations for."""
    logits = (scale * images) @ texts.t()
    right = scale * (images * texts).sum()
    sums = logits.logsumexp(dim=1).sum() + logits.logsumexp(dim=0).sum()
    return (sums / 2 - right) / len(logits)


def open_clip_loss(images, texts, scale):
    """open_clip's own."""
    from open_clip.loss import ClipLoss as OpenClipLoss

    return OpenClipLoss()(images, texts, scale)


def open_clip_loss_in_bfloat16(images, texts, scale):
    """The same in bfloat16 autocast, as open_clip trains: its logits have 8 binary digits."""
    with torch.autocast(images.device.type, torch.bfloat16):
        return open_clip_loss(images, texts, scale)


LOSSES = {
    "ours, tiled": ClipLoss(),
    "open_clip": open_clip_loss,
    "open_clip, bfloat16": open_clip_loss_in_bfloat16,
    "plain formula": plain_formula,
    "best plain formula": best_plain_formula,
}
#: Copies of the matrix that are there at once, to tell what does not fit.
MATRICES = {
    "ours, tiled": 0,
    "open_clip": 6,
    "open_clip, bfloat16": 6,
    "plain formula": 5,
    "best plain formula": 4,
}


def make_embeds(batch: int, device: str) -> list[torch.Tensor]:
    """Random images and texts of length 1, and the scale."""
    generator = torch.Generator().manual_seed(0)
    embeds = [normalize(torch.randn(batch, SIZE, generator=generator), dim=-1) for _ in range(2)]
    return [value.to(device).requires_grad_() for value in (*embeds, torch.tensor(SCALE))]


def run(name: str, inputs: list[torch.Tensor]) -> float:
    """Seconds of forward and backward."""
    device = inputs[0].device.type
    for value in inputs:
        value.grad = None
    synchronize(device)
    started = time.perf_counter()
    LOSSES[name](*inputs).backward()
    synchronize(device)
    return time.perf_counter() - started


def measure_time(device: str, batch: int, rounds: int) -> dict:
    """Print a table of times."""
    inputs = make_embeds(batch, device)
    times: dict[str, list[float]] = {name: [] for name in LOSSES}
    for turn in range(rounds + 1):
        for name in list(times):
            try:
                seconds = run(name, inputs)
            except torch.OutOfMemoryError:
                del times[name]
                continue
            if turn:  # the first warms up
                times[name].append(seconds)
    ours = statistics.median(times["ours, tiled"])
    print(f"batch {batch} x {SIZE}, float32, {describe_device(device)}, {rounds} rounds")
    print("| loss | min | median | max | ours / it |\n" + "| --- " * 5 + "|")
    for name, values in times.items():
        middle = statistics.median(values)
        cells = (f"{1000 * value:,.1f} ms" for value in (min(values), middle, max(values)))
        print(f"| {name} | {' | '.join(cells)} | {ours / middle:.2f} |")
    return times


def peak_megabytes() -> float:
    """The most memory that this process has had."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if "VmHWM" in line) / 1024


def grow(name: str, batch: int, device: str) -> float:
    """By how many MB one run makes memory grow; on a CPU, in a process of its own."""
    run(name, make_embeds(256, device))
    inputs = make_embeds(batch, device)
    for value in inputs:  # gradients are as large as the embeddings, and every loss makes them
        value.grad = torch.zeros_like(value)
    if device == "cpu":
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        before = peak_megabytes()
        LOSSES[name](*inputs).backward()
        return peak_megabytes() - before
    meter = MemoryMeter(device)
    meter.watch()
    LOSSES[name](*inputs).backward()
    return (meter.peak() or 0) / 2**20


def grow_apart(name: str, batch: int) -> float:
    """`grow` on a CPU in a process of its own."""
    command = [sys.executable, __file__, "--grow", name, "--batch", str(batch)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def free_bytes(device: str) -> int:
    """Memory that nobody uses yet."""
    if device == "cuda":
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]
    pages = Path("/proc/meminfo").read_text()
    return 1024 * next(int(row.split()[1]) for row in pages.splitlines() if "MemAvailable" in row)


def measure_memory(device: str, batches: list[int]) -> dict:
    """Print a table of memory."""
    free = free_bytes(device)
    rows: dict[str, dict[int, float]] = {name: {} for name in LOSSES}
    print(f"{describe_device(device)}, {free / 1e9:.0f} GB free")
    print("| loss | " + " | ".join(f"{batch:,}" for batch in batches) + " |")
    print("| --- " * (len(batches) + 1) + "|")
    for name, row in rows.items():
        for batch in batches:
            if MATRICES[name] * 4 * batch**2 > 0.8 * free:
                continue
            row[batch] = grow_apart(name, batch) if device == "cpu" else grow(name, batch, device)
        cells = (f"{row[batch]:,.0f} MB" if batch in row else "does not fit" for batch in batches)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    return rows


def plot(rows: dict, path: Path):
    """Draw memory over the batch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name, row in rows.items():
        axes.plot(list(row), [max(value, 1) for value in row.values()], marker="o", label=name)
    axes.set(yscale="log", xlabel="pairs in a batch", ylabel="memory added, MB")
    axes.set_xscale("log", base=2)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main():
    """Measure what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device_option(parser)
    parser.add_argument("--batch", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", type=int, nargs="+", metavar="BATCH")
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--grow", choices=list(LOSSES), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.grow:
        print(grow(options.grow, options.batch, "cpu"))
        return
    result = (
        measure_memory(options.device, options.memory)
        if options.memory
        else measure_time(options.device, options.batch, options.rounds)
    )
    if options.plot:
        plot(result, options.plot)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
