"""Attention kernels against each other: how near to float64, and how fast.

    python benchmarks/attention_kernels.py [--batch 256] [--rounds 5] [--json FILE]

Each kernel computes what a block of a tower asks of it, forward and backward, on the same queries,
keys and values in bfloat16; the kernels take turns within every round. The error is the largest of
those of the output and of the three gradients, each relative to the norm in float64.

Shape legend: `B` batch, `H` heads, `L` sequence, `A` head size.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from devices import add_device_option, describe_device
from torch.nn.attention import SDPBackend, sdpa_kernel

from modeling_clip_vit import ClipVitTextConfig, ClipVitVisionConfig
from modeling_clip_vit.attention import ClipVitAttention
from modeling_clip_vit.utils.devices import synchronize

HEAD_SIZE = 64


@dataclass
class Case:
    """The attention of a tower.

    Args:
        heads, length: H and L.
        is_causal: whether a token sees only those before it.
    """

    heads: int
    length: int
    is_causal: bool = False


CASES = {
    "image tower of B/32": Case(12, 50),
    "image tower of B/16": Case(12, 197),
    "image tower of L/14": Case(16, 257),
    "text tower of B, full texts": Case(8, 77, is_causal=True),
}
#: Kernel -> `attn_implementation`, and which of torch's fused kernels to take.
KERNELS: dict[str, tuple[str, SDPBackend | None]] = {
    "eager": ("eager", None),
    "sdpa": ("sdpa", None),
    "sdpa, flash": ("sdpa", SDPBackend.FLASH_ATTENTION),
    "sdpa, memory-efficient": ("sdpa", SDPBackend.EFFICIENT_ATTENTION),
    "sdpa, cuDNN": ("sdpa", SDPBackend.CUDNN_ATTENTION),
    "flex_attention": ("flex_attention", None),
}
CPU_KERNELS = ["eager", "sdpa"]


def build(case: Case, implementation: str) -> ClipVitAttention:
    """The attention of a block."""
    kind = ClipVitTextConfig if case.is_causal else ClipVitVisionConfig
    config = kind(hidden_size=case.heads * HEAD_SIZE, num_attention_heads=case.heads)
    config._attn_implementation = implementation
    return ClipVitAttention(config)


def build_mask(case: Case, implementation: str, device: str):
    """The causal mask where a kernel needs one."""
    if not case.is_causal or implementation == "sdpa":
        return None  # sdpa takes `is_causal`
    if implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        def sees(batch, head, query, key):
            return query >= key

        return create_block_mask(sees, None, None, case.length, case.length, device)
    hidden = torch.full((case.length, case.length), -torch.inf, device=device).triu(1)
    return hidden[None, None]


def make_states(case: Case, batch: int, device: str) -> list[torch.Tensor]:
    """Queries, keys, values and a gradient of the output, (B, H, L, A), stored token by token."""
    generator = torch.Generator().manual_seed(0)
    shape = (batch, case.length, case.heads, HEAD_SIZE)
    states = [torch.randn(shape, generator=generator).transpose(1, 2) for _ in range(4)]
    return [value.to(device, torch.bfloat16) for value in states]


def attend(case: Case, kernel: str, states: list[torch.Tensor]) -> Callable[[], list[torch.Tensor]]:
    """What computes the output and the three gradients."""
    implementation, backend = KERNELS[kernel]
    module = build(case, implementation)
    mask = build_mask(case, implementation, states[0].device.type)
    if mask is not None and implementation == "eager":
        mask = mask.to(states[0].dtype)
    leaves = [value.detach().requires_grad_() for value in states[:3]]
    gradient_BLHA = states[3].transpose(1, 2)

    def run() -> list[torch.Tensor]:
        with sdpa_kernel(backend) if backend else nullcontext():
            output, _ = module.attend(*leaves, mask, case.is_causal)
            return [output.detach(), *torch.autograd.grad(output, leaves, gradient_BLHA)]

    return run


def error(given: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest distance, relative to the expected norm."""
    pairs = zip(given, expected, strict=True)
    return max(float((a.double() - b).norm() / b.norm()) for a, b in pairs)


def measure(case: Case, kernels: list[str], options: argparse.Namespace) -> dict[str, dict]:
    """Milliseconds and error of each kernel."""
    states = make_states(case, options.batch, options.device)
    exact = attend(case, "eager", [value.double() for value in states])()
    runs, figures = {}, {}
    for kernel in kernels:
        run = attend(case, kernel, states)
        try:
            figures[kernel] = {"error": error(run(), exact), "milliseconds": []}
            runs[kernel] = run
        except RuntimeError as reason:  # the kernel does not take this case on this device
            figures[kernel] = {"failed": str(reason).split("\n")[0]}
    del exact
    gc.collect()
    for _ in range(options.rounds):
        for kernel, run in runs.items():
            figures[kernel]["milliseconds"].append(time_calls(run, options))
    return figures


def time_calls(run: Callable, options: argparse.Namespace) -> float:
    """Milliseconds of a call, the mean of some."""
    run()
    synchronize(options.device)
    started = time.perf_counter()
    for _ in range(options.calls):
        run()
    synchronize(options.device)
    return 1000 * (time.perf_counter() - started) / options.calls


def main():
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_device_option(parser)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=10, help="of a kernel in a round")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    kernels = list(KERNELS) if options.device == "cuda" else CPU_KERNELS
    print(f"batch {options.batch}, bfloat16, {describe_device(options.device)}")
    print("| attention | kernel | median | error |\n| --- | --- | --- | --- |")
    result: dict = {"batch": options.batch, "cases": {}}
    for name, case in CASES.items():
        figures = result["cases"][name] = measure(case, kernels, options)
        for kernel, found in figures.items():
            cells = [found.get("failed", ""), ""]
            if "error" in found:
                middle = statistics.median(found["milliseconds"])
                cells = [f"{middle:.3f} ms", f"{found['error']:.1e}"]
            print(f"| {name} | {kernel} | {' | '.join(cells)} |", flush=True)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
