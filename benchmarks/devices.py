"""What the benchmarks need to know of the device that they measure."""

import argparse

import torch

from modeling_clip_vit.utils.devices import default_device, product_speeds

#: What a card's data sheet promises of dense bfloat16 products, in operations per second.
TENSOR_PEAKS = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA H200": 989e12}
#: Side of the matrices whose product tells how fast a device multiplies.
PRODUCT_SIDES = {"cpu": 2048, "cuda": 8192}


def add_device_option(parser: argparse.ArgumentParser):
    """`--device`, by default what training would take."""
    parser.add_argument("--device", default=default_device().type, help="cpu, cuda or another")


def describe_device(device: str) -> str:
    """The device, and torch's version."""
    if device == "cuda":
        return f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    from modeling_clip_vit.hub.card_facts import processor_name

    return f"{processor_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def multiply_rates(device: str) -> dict[str, float]:
    """Operations per second of torch's product of two square matrices, by precision."""
    side = PRODUCT_SIDES.get(device, 4096)
    rates = product_speeds(device, torch.float32, torch.bfloat16, side=side)
    return dict(zip(("float32", "bfloat16"), rates, strict=True))


class MemoryMeter:
    """Bytes of an accelerator's memory that its owner would need by itself; None on a CPU.

    What is allocated when the meter is made belongs to others.
    """

    def __init__(self, device: str):
        self.is_cuda = device == "cuda"
        self.others = torch.cuda.memory_allocated() if self.is_cuda else 0

    def watch(self):
        """Forget the peak so far."""
        if self.is_cuda:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> float | None:
        """The most that was allocated since `watch`, without what belongs to others."""
        return torch.cuda.max_memory_allocated() - self.others if self.is_cuda else None


def gigabytes(size: float | None) -> str:
    """A size for a table."""
    return "–" if size is None else f"{size / 1e9:.1f} GB"
