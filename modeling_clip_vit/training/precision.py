"""Choose the number formats to compute in by timing the device.

What was measured is kept in checkpoints: a busy machine may measure otherwise, and a run that is
resumed in another format diverges from one that was not interrupted.
"""

import logging
from dataclasses import dataclass
from functools import cache

import torch

from ..utils.devices import bfloat16_gain
from ..utils.errors import UserError
from ..utils.processes import from_main
from .arguments import TrainArguments
from .options import RunOptions

logger = logging.getLogger(__name__)

#: Train in bfloat16 if its matrix product is at least this many times as fast as float32's.
LEAST_GAIN = 1.5
#: The same for Muon, which in float32 needs fewer products than in bfloat16.
LEAST_ORTHOGONALIZATION_GAIN = 4


@dataclass(frozen=True)
class Precision:
    """The number formats of a run, as plain values that a checkpoint keeps.

    Args:
        device_type: type of the device that they were chosen for.
        autocast: format of the model's products, as Accelerate's `mixed_precision`: `bf16`, `fp16`
            or `no`.
        muon: dtype of the products that orthogonalise Muon's matrices: `bfloat16` or `float32`.
    """

    device_type: str = "cpu"
    autocast: str = "no"
    muon: str = "float32"

    @property
    def muon_dtype(self) -> torch.dtype:
        """The dtype that `muon` names."""
        return getattr(torch, self.muon)


#: Nothing but float32.
FLOAT32 = Precision()


def choose_precision(
    args: TrainArguments, device_type: str, kept: Precision | None = None
) -> Precision:
    """The number formats of a run: as the arguments say, else as kept, else by timing the device.

    With `bf16: false`, nothing is computed in bfloat16, unless it is kept.

    All processes must call this together.

    Args:
        args: of the run.
        device_type: type of the device to train on.
        kept: what the checkpoint keeps, of a run that is resumed. A device of another type, or
            without bfloat16, is timed again, and a warning says so.

    Raises:
        UserError: fp16 is set on a device without loss scaling, or together with bf16.
    """
    autocast = requested_autocast(args.run, device_type)
    has_muon = args.optimizer.optim == "muon"
    if kept and (autocast is None or has_muon) and not is_usable(kept, device_type):
        logger.warning(
            "the checkpoint's precision (%s autocast, Muon in %s, chosen for %s) does not suit "
            "this %s: it is measured again",
            *(kept.autocast, kept.muon, kept.device_type, device_type),
        )
        kept = None
    # In float16, the former run was asked to train: that is not what a device was measured for.
    if autocast is None and kept and kept.autocast != "fp16":
        autocast = kept.autocast
    if autocast is None:
        autocast = "bf16" if shared_gain(device_type) >= LEAST_GAIN else "no"
    if kept:
        muon = kept.muon
    else:
        is_timed = has_muon and args.run.bf16 is not False
        is_fast = is_timed and shared_gain(device_type) >= LEAST_ORTHOGONALIZATION_GAIN
        muon = "bfloat16" if is_fast else "float32"
    return Precision(device_type, autocast, muon)


def requested_autocast(options: RunOptions, device_type: str) -> str | None:
    """Accelerate's `mixed_precision` as the options set it, or None if they leave it open.

    Raises:
        UserError: fp16 is set on a device without loss scaling, or together with bf16.
    """
    if not options.fp16:
        return None if options.bf16 == "auto" else "bf16" if options.bf16 else "no"
    if options.bf16 is True:
        raise UserError("fp16 and bf16 are both true: choose one")
    if device_type == "cpu":
        raise UserError("fp16=true needs a GPU: on this CPU use bf16=true, or neither")
    return "fp16"


def is_usable(precision: Precision, device_type: str) -> bool:
    """Whether formats that were chosen before can be used on a device."""
    if precision.device_type != device_type:
        return False
    has_bfloat16 = "bf16" in precision.autocast or "bfloat16" in precision.muon
    return not has_bfloat16 or shared_gain(device_type) > 0


@cache
def shared_gain(device_type: str) -> float:
    """`bfloat16_gain` of the main process; all processes must call this together."""
    return from_main(bfloat16_gain(device_type))
