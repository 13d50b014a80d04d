"""Choose the dtype to compute in by timing the device."""

from functools import cache

import torch

from ..utils.devices import bfloat16_gain
from ..utils.errors import UserError
from ..utils.processes import from_main
from .arguments import RunOptions

#: Train in bfloat16 if its matrix product is at least this many times as fast as float32's.
LEAST_GAIN = 1.5
#: The same for Muon, which in float32 needs fewer products than in bfloat16.
LEAST_ORTHOGONALIZATION_GAIN = 4


def choose_precision(options: RunOptions, device_type: str) -> str:
    """Accelerate's `mixed_precision`: `bf16`, `fp16` or `no`.

    Raises:
        UserError: fp16 is set on a device without loss scaling, or together with bf16.
    """
    if options.fp16 and options.bf16 is True:
        raise UserError("fp16 and bf16 are both true: choose one")
    if options.fp16:
        if device_type == "cpu":
            raise UserError("fp16=true needs a GPU: on this CPU use bf16=true, or neither")
        return "fp16"
    if options.bf16 is True or (options.bf16 == "auto" and computes_in_bf16(device_type)):
        return "bf16"
    return "no"


def computes_in_bf16(device_type: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    return shared_gain(device_type) >= LEAST_GAIN


def choose_product_dtype(device_type: str) -> torch.dtype:
    """The dtype that Muon multiplies matrices in."""
    is_fast = shared_gain(device_type) >= LEAST_ORTHOGONALIZATION_GAIN
    return torch.bfloat16 if is_fast else torch.float32


@cache
def shared_gain(device_type: str) -> float:
    """`bfloat16_gain` of the main process; all processes must call this together."""
    return from_main(bfloat16_gain(device_type))
