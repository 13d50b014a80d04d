"""Time Muon's orthogonalisation of a matrix, and how far from orthogonal its result is.

    python benchmarks/orthogonalization.py [--rows 256] [--columns 4096]

Compares ours with timm's Newton-Schulz iterations in float32 and bfloat16, which take turns. The
error is the largest distance of a singular value from 1.
"""

import argparse
import statistics
import time
from functools import partial

import torch
from timm.optim.muon import resolve_ns_coefficients, zeropower_via_newtonschulz

from modeling_clip_vit.training.muon import NEWTON_SCHULZ, orthogonalize


def error(matrix_MK: torch.Tensor) -> float:
    """The largest distance of a singular value from 1."""
    return float((torch.linalg.svdvals(matrix_MK.double()) - 1).abs().max())


def main():
    """Print a table with one line per implementation and number format."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--columns", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.manual_seed(0)
    matrix_MK = torch.randn(options.rows, options.columns)
    steps = len(NEWTON_SCHULZ)
    coefficients = resolve_ns_coefficients(list(NEWTON_SCHULZ), {})
    timm = partial(zeropower_via_newtonschulz, steps=steps, coefficients=coefficients)
    ways = {
        f"{name}, {str(dtype).removeprefix('torch.')}": function
        for dtype in (torch.float32, torch.bfloat16)
        for name, function in {
            "clip-vit": partial(lambda m, dtype: orthogonalize(m[None], dtype)[0], dtype=dtype),
            "timm": partial(timm, dtype=dtype),
        }.items()
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(options.rounds + 1):
        for name, function in ways.items():
            started = time.perf_counter()
            function(matrix_MK)
            if turn:  # the first round warms up
                times[name].append(1e3 * (time.perf_counter() - started))
    print(f"{options.rows} x {options.columns}, {torch.get_num_threads()} threads")
    print("| way | median ms | error |\n| --- | --- | --- |")
    for name, function in ways.items():
        print(
            f"| {name} | {statistics.median(times[name]):.1f} | {error(function(matrix_MK)):.2f} |"
        )


if __name__ == "__main__":
    main()
