"""What this machine computes with: its device, how fast that multiplies, its memory."""

import time
from functools import cache

import torch

#: Side of the square matrices that are multiplied to time a device, by device type.
PRODUCT_SIDE = {"cpu": 512}
LARGE_PRODUCT_SIDE = 2048
#: Products of each type.
TURNS = 20


def default_device() -> torch.device:
    """The accelerator that torch finds (CUDA, ROCm, MPS, XPU and others), else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.device("cpu") if accelerator is None else accelerator


def free_memory() -> int:
    """Bytes of this machine's memory that programs can still take."""
    import psutil

    return psutil.virtual_memory().available


def copies_pinned(device_type: str) -> bool:
    """Whether copies to a device from pinned memory run while the processor goes on."""
    return device_type in ("cuda", "xpu")


@cache
def product_speeds(
    device_type: str, *dtypes: torch.dtype, side: int | None = None
) -> tuple[float, ...]:
    """Operations per second of a matrix product in each type: 2 n^3 over the shortest time.

    The types take turns, so that a busy machine slows all of them.

    Args:
        device_type: to compute on.
        dtypes: the number formats.
        side: n; by default large enough to tell the formats apart.

    Raises:
        RuntimeError: the device does not multiply one of the types.
    """
    side = side or PRODUCT_SIDE.get(device_type, LARGE_PRODUCT_SIDE)
    # Random: under load, a GPU multiplies random numbers more slowly than ones.
    # Their own generator: later random numbers must not depend on what is timed in this process.
    numbers = torch.rand(side, side, generator=torch.Generator().manual_seed(0)).to(device_type)
    matrices = [numbers.to(dtype) for dtype in dtypes]
    shortest = [float("inf")] * len(dtypes)
    for _ in range(TURNS):  # the first ones prepare kernels
        for number, matrix in enumerate(matrices):
            synchronize(device_type)
            started = time.perf_counter()
            matrix @ matrix
            synchronize(device_type)
            shortest[number] = min(shortest[number], time.perf_counter() - started)
    return tuple(2 * side**3 / seconds for seconds in shortest)


def bfloat16_gain(device_type: str) -> float:
    """How many times as fast as float32 the device multiplies bfloat16; 0 where it cannot.

    It is timed: a processor that lacks the instructions takes bfloat16 too, and emulates it.
    """
    if device_type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return 0.0
    try:
        bfloat16, float32 = product_speeds(device_type, torch.bfloat16, torch.float32)
    except (RuntimeError, TypeError):
        return 0.0
    return bfloat16 / float32


def synchronize(device_type: str):
    """Wait until a device has finished its work."""
    if device_type != "cpu":
        torch.accelerator.synchronize()


def peak_memory(device: torch.device) -> float:
    """Peak memory of this process in MB: on its accelerator, or in total if it has none."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if device.type != "cpu" and hasattr(torch.accelerator, "max_memory_allocated"):
        return torch.accelerator.max_memory_allocated(device) / 1e6
    try:
        import resource
        import sys
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset / 1e6
    # Linux counts in kilobytes, macOS in bytes.
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def read_random_state(device: torch.device) -> tuple[torch.Tensor, torch.Tensor | None]:
    """State of the random numbers of the CPU, and of this process's accelerator if it has one."""
    if device.type == "cpu":
        return torch.get_rng_state(), None
    return torch.get_rng_state(), torch.get_device_module(device).get_rng_state()


def write_random_state(state: tuple[torch.Tensor, torch.Tensor | None], device: torch.device):
    """Restore what `read_random_state` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.get_device_module(device).set_rng_state(state[1])
