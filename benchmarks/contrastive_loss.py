"""Time and memory of the contrastive loss, forward and backward, against those of others.

    python benchmarks/contrastive_loss.py [--batch 8192] [--rounds 5]
    python benchmarks/contrastive_loss.py --memory 1024 4096 16384 65536 131072 [--plot FILE]

The first command prints the time of each loss; the losses take turns within every round, so that a
busy machine slows all of them alike. On a GPU it also prints the memory, and how far the gradients
are from those of float64 (--accuracy takes another batch for that). The second prints how much
memory each loss adds to that of the embeddings and their gradients, on a CPU in a process of its
own; runs that would not fit are left out.

On a GPU, the fused kernels of memeff and of Inf-CL (Cheng et al., 2024) are measured too where they
are installed (`pip install memeff inf-cl`). Inf-CL multiplies in TF32. memeff gets bfloat16, since
its kernels need more memory on the chip for float32 than an H200 has; it has no gradient of the
scale.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import torch
from devices import MemoryMeter, add_device_option, describe_device, gigabytes
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


def transformers_loss(images, texts, scale):
    """That of Transformers' CLIP."""
    from transformers.models.clip.modeling_clip import image_text_contrastive_loss

    return image_text_contrastive_loss(texts @ images.t() * scale)


def memeff_loss(images, texts, scale):
    """The kernels of memeff, which take the scale as a number."""
    from memeff import MemoryEfficientCLIPLoss

    loss = MemoryEfficientCLIPLoss(1 / SCALE, normalized_inputs=True, stable=False)
    return loss(images.bfloat16(), texts.bfloat16())


def inf_cl_loss(images, texts, scale):
    """The kernels of Inf-CL, once in each direction."""
    from inf_cl import cal_flash_loss

    ways = (images, texts), (texts, images)
    return sum(cal_flash_loss(a, b, scale=scale).mean() for a, b in ways) / 2


LOSSES = {
    "ours, tiled": ClipLoss(),
    "ours, tiled, TF32": ClipLoss(),
    "open_clip": open_clip_loss,
    "open_clip, bfloat16": open_clip_loss_in_bfloat16,
    "transformers": transformers_loss,
    "plain formula": plain_formula,
    "best plain formula": best_plain_formula,
    "memeff, bfloat16": memeff_loss,
    "Inf-CL": inf_cl_loss,
}
#: Losses that run on a GPU alone -> the package that they need, or None.
GPU_ONLY = {"ours, tiled, TF32": None, "memeff, bfloat16": "memeff", "Inf-CL": "inf_cl"}
#: Copies of the matrix that are there at once, to tell what does not fit.
MATRICES = {
    "ours, tiled": 0,
    "ours, tiled, TF32": 0,
    "memeff, bfloat16": 0,
    "Inf-CL": 0,
    "open_clip": 6,
    "open_clip, bfloat16": 6,
    "transformers": 6,
    "plain formula": 5,
    "best plain formula": 4,
}


def available_losses(device: str) -> list[str]:
    """The losses that a device and the installed packages have."""
    return [
        name
        for name in LOSSES
        if name not in GPU_ONLY
        or (device == "cuda" and (not GPU_ONLY[name] or find_spec(str(GPU_ONLY[name]))))
    ]


def make_embeds(batch: int, device: str, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Random images and texts of length 1, and the scale."""
    generator = torch.Generator().manual_seed(0)
    embeds = [normalize(torch.randn(batch, SIZE, generator=generator), dim=-1) for _ in range(2)]
    values = (*embeds, torch.tensor(SCALE))
    return [value.to(device, dtype).requires_grad_() for value in values]


def propagate(name: str, inputs: list[torch.Tensor]):
    """Forward and backward."""
    torch.backends.cuda.matmul.allow_tf32 = name.endswith("TF32")
    try:
        LOSSES[name](*inputs).backward()
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def run(name: str, inputs: list[torch.Tensor]) -> float:
    """Seconds of forward and backward."""
    device = inputs[0].device.type
    for value in inputs:
        value.grad = None
    synchronize(device)
    started = time.perf_counter()
    propagate(name, inputs)
    synchronize(device)
    return time.perf_counter() - started


def measure_time(device: str, batch: int, rounds: int, accuracy_batch: int) -> dict:
    """Print a table of times, and on a GPU of memory and accuracy."""
    inputs = make_embeds(batch, device)
    times: dict[str, list[float]] = {name: [] for name in available_losses(device)}
    errors = {}
    if device == "cuda":
        errors = measure_errors(device, accuracy_batch, list(times))
        times = {name: [] for name in errors}
    memory: dict[str, float | None] = {}
    gradients = sum(value.nbytes for value in inputs)
    for turn in range(rounds + 1):
        for name in list(times):
            meter = MemoryMeter(device)
            meter.watch()
            try:
                seconds = run(name, inputs)
            except torch.OutOfMemoryError:
                del times[name]
                continue
            if turn:  # the first warms up
                times[name].append(seconds)
                peak = meter.peak()
                memory[name] = None if peak is None else peak - gradients
    ours = statistics.median(times["ours, tiled"])
    print(f"batch {batch} x {SIZE}, float32, {describe_device(device)}, {rounds} rounds")
    print("| loss | min | median | max | ours / it | memory | error |\n" + "| --- " * 7 + "|")
    for name, values in times.items():
        middle = statistics.median(values)
        cells = [f"{1000 * value:,.1f} ms" for value in (min(values), middle, max(values))]
        cells += [f"{ours / middle:.2f}", gigabytes(memory[name])]
        cells.append(f"{errors[name]:.1e}" if name in errors else "–")
        print(f"| {name} | {' | '.join(cells)} |")
    return {"batch": batch, "size": SIZE, "seconds": times, "bytes": memory} | {
        "accuracy_batch": accuracy_batch,
        "gradient_errors": errors,
    }


def measure_errors(device: str, batch: int, names: list[str]) -> dict[str, float]:
    """How far the gradients of each loss are from those of float64, relative to their norm."""
    exact = make_embeds(batch, device, torch.float64)
    propagate("ours, tiled", exact)
    errors = {}
    for name in names:
        inputs = make_embeds(batch, device)
        try:
            propagate(name, inputs)
        except Exception as reason:
            if not GPU_ONLY.get(name):
                raise
            print(f"{name} failed: {reason}")  # a peer's kernel that does not know this card
            continue
        distances = [
            float((given.grad.double() - right.grad).norm() / right.grad.norm())
            for given, right in zip(inputs[:2], exact[:2], strict=True)
        ]
        errors[name] = max(distances)
    return errors


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
        propagate(name, inputs)
        return peak_megabytes() - before
    meter = MemoryMeter(device)
    meter.watch()
    propagate(name, inputs)
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
    rows: dict[str, dict[int, float]] = {name: {} for name in available_losses(device)}
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
    parser.add_argument("--accuracy", type=int, default=16384, metavar="BATCH")
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
        else measure_time(options.device, options.batch, options.rounds, options.accuracy)
    )
    if options.plot:
        plot(result, options.plot)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
