"""How much of the device a run uses: operations per second, and their share of the peak."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from ..utils.devices import product_speeds
from .precision import Precision
from .sharding import SHARDED

#: Part of a GPU's name -> its peak in dense half precision by the manufacturer's data sheet, in
#: operations per second; the first that fits counts.
HALF_PRECISION_PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}


class OperationCounter(TorchDispatchMode):
    """Counts the floating-point operations of products, convolutions and attention, by the formulas
    of torch's `FlopCounterMode`, but without its hooks on modules.
    """

    def __init__(self):
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.total += formula(*args, **(kwargs or {}), out_val=result)
        return result


class Throughput:
    """Operations per second of this process, counted in the first update, and after `recount`.

    What `gradient_checkpointing` and the gradient cache compute twice counts twice. Nothing is
    counted where operations are hidden: in compiled blocks, and in weights that are sharded.

    Args:
        accelerator: of the process.
        precision: of the run.
        steps_per_update: batches of an update.
        is_compiled: whether blocks are compiled.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        precision: Precision,
        steps_per_update: int,
        is_compiled: bool,
    ):
        self.device, self.autocast = accelerator.device, precision.autocast
        self.steps_per_update = steps_per_update
        self.is_countable = not is_compiled and accelerator.distributed_type not in SHARDED
        #: Of an update; 0 until it is counted.
        self.operations = 0
        self.tokens: int | torch.Tensor = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is computed, the first time."""
        if self.operations or not self.is_countable:
            yield
            return
        with OperationCounter() as counter:
            yield
        self.operations = counter.total * self.steps_per_update

    def recount(self):
        """Count anew: an update computes something else from now on."""
        self.operations = 0

    def add_tokens(self, batch: dict):
        """Count the tokens of a batch's texts, without padding; a GPU is not waited for."""
        if "attention_mask" in batch:
            self.tokens = self.tokens + batch["attention_mask"].sum()
        elif "input_ids" in batch:
            self.tokens = self.tokens + batch["input_ids"].numel()

    def describe(self, seconds: float, updates: int, num_processes: int) -> dict[str, float]:
        """What is logged: operations per second and device, and texts' tokens of all processes.

        Args:
            seconds: since the last log.
            updates: in this time.
            num_processes: each is taken to have as many tokens as this one.
        """
        numbers = {}
        tokens, self.tokens = float(self.tokens), 0
        if tokens:
            numbers["tokens_per_second"] = tokens * num_processes / seconds
        if self.operations:
            speed = self.operations * updates / seconds
            numbers["tflops_per_device"] = speed / 1e12
            numbers["mfu"] = speed / peak_speed(self.device, self.autocast)
        if self.device.type == "cuda":
            retries = torch.cuda.memory_stats(self.device).get("num_alloc_retries", 0)
            numbers["allocator_retries"] = float(retries)
        return numbers


def peak_speed(device: torch.device, autocast: str) -> float:
    """The most operations per second of a device: by the data sheet of a known GPU in half
    precision, else the speed of a large matrix product, which is measured once.

    Args:
        device: of the process.
        autocast: see `Precision`.
    """
    if autocast != "no" and device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = [peak for part, peak in HALF_PRECISION_PEAKS.items() if part in name]
        if known:
            return known[0]
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(autocast, torch.float32)
    if dtype == torch.float16:
        return product_speeds(device.type, dtype)[0]
    try:
        # As the choice of the precision has timed them.
        speeds = product_speeds(device.type, torch.bfloat16, torch.float32)
        return speeds[0 if dtype == torch.bfloat16 else 1]
    except (RuntimeError, TypeError):
        return product_speeds(device.type, torch.float32)[0]
