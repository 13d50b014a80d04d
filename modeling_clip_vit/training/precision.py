"""Choose the number format to compute in."""

import torch

from .arguments import RunOptions


def choose_precision(options: RunOptions, device_type: str) -> str:
    """`bf16`, `fp16` or `no`, as Accelerate's `mixed_precision` takes it.

    Raises:
        ValueError: fp16 is asked for where no loss scaling exists, or together with bf16.
    """
    if options.fp16 and options.bf16 is True:
        raise ValueError("fp16 and bf16 are both true: choose one")
    if options.fp16:
        if device_type == "cpu":
            raise ValueError("fp16=true needs a GPU: on this CPU use bf16=true, or neither")
        return "fp16"
    if options.bf16 is True or (options.bf16 == "auto" and computes_in_bf16(device_type)):
        return "bf16"
    return "no"


def computes_in_bf16(device_type: str) -> bool:
    """Whether the device multiplies bfloat16 in hardware; elsewhere it is slower than float32."""
    if device_type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device_type == "cpu":
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return False
