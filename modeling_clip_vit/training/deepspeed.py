"""DeepSpeed's ZeRO, stages 1 and 2 (Rajbhandari et al., 2020, section 5).

The optimiser's states are sharded over processes, and in stage 2 the gradients too. Accelerate has
DeepSpeed update the weights within the backward pass; here the guard first checks the gradient.
"""

import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DeepSpeedPlugin

from ..utils.errors import UserError
from ..utils.packages import require
from .arguments import TrainArguments
from .checkpoints import CheckpointError
from .gradient_cache import gradient_exchange
from .precision import Precision


def is_zero_launched() -> bool:
    """Whether the run was launched with DeepSpeed."""
    return os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"


def build_zero_plugin(args: TrainArguments) -> DeepSpeedPlugin:
    """DeepSpeed's settings: its stage from the launcher, everything else from the arguments.

    Raises:
        UserError: it does not support what the arguments ask for.
        MissingPackageError: it is not installed.
    """
    if args.optimizer.optim != "adamw":
        raise UserError(
            f"optim={args.optimizer.optim!r} is not allowed with DeepSpeed, which hands the "
            "optimiser flat pieces instead of matrices: use adamw"
        )
    if args.run.fp16:
        raise UserError("fp16=true is not allowed with DeepSpeed: use bf16=true, or neither")
    plugin = DeepSpeedPlugin()
    config = plugin.deepspeed_config
    stage = config["zero_optimization"]["stage"]
    if stage not in (1, 2):
        raise UserError(
            f"zero_stage={stage} is not allowed with DeepSpeed: it must be 1 or 2; to share the "
            "weights out too, launch with configuration/accelerate/fsdp2.yaml"
        )
    for name in ("offload_optimizer", "offload_param"):
        place = config["zero_optimization"].get(name, {}).get("device", "none")
        if place != "none":
            raise UserError(f"{name}_device={place} is not allowed with DeepSpeed: it must be none")
    require(("deepspeed",), "deepspeed", "training with DeepSpeed")
    config |= {
        "train_micro_batch_size_per_gpu": args.optimizer.per_device_train_batch_size,
        "gradient_accumulation_steps": args.optimizer.gradient_accumulation_steps,
        "gradient_clipping": args.optimizer.max_grad_norm,
    }
    return plugin


def set_zero_precision(plugin: DeepSpeedPlugin, precision: Precision):
    """Set the precision of products; weights stay in float32, as with the other strategies.

    Args:
        plugin: from `build_zero_plugin`.
        precision: of the run; float16 is not supported.
    """
    plugin.deepspeed_config["torch_autocast"] = {
        "enabled": precision.autocast == "bf16",
        "dtype": "bfloat16",
        "lower_precision_safe_modules": [],  # whose gradients would be added up in bfloat16
    }


def check_zero_checkpoint(path: Path, saved: int, now: int):
    """Reject a checkpoint whose shards do not fit the processes of this run.

    Args:
        path: the checkpoint.
        saved, now: number of processes that saved it, and of this run.

    Raises:
        CheckpointError: it was saved by another number of them, or without DeepSpeed.
    """
    if not any(path.glob("*/*_optim_states.pt")):
        raise CheckpointError(f"cannot resume from {path}: it was saved without DeepSpeed")
    if saved != now:
        raise CheckpointError(
            f"cannot resume from {path}: DeepSpeed saved the parts of {saved} processes in it, "
            f"which {now} cannot share: launch with --num_processes {saved}"
        )


def load_safely(path: str, map_location: Any = None) -> Any:
    """Load a file of a DeepSpeed checkpoint without running code that it may contain."""
    from deepspeed.runtime.fp16.loss_scaler import LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    with torch.serialization.safe_globals([LossScaler, ZeroStageEnum, fragment_address]):
        return torch.load(path, map_location=map_location, weights_only=True)


class ZeroUpdates:
    """Replaces Accelerate's wrapper of DeepSpeed's engine, so that `step` alone updates weights.

    `Accelerator.backward` calls it, and it is the training loop's optimiser.

    Args:
        accelerator: has prepared the model.
    """

    def __init__(self, accelerator: Accelerator):
        self.accelerator = accelerator
        self.engine: Any = accelerator.deepspeed_engine_wrapped.engine
        self.engine.set_gradient_accumulation_boundary(True)
        self.engine.checkpoint_engine.load = load_safely
        accelerator.deepspeed_engine_wrapped = self

    def backward(self, loss: torch.Tensor, sync_gradients: bool = True, **kwargs):
        """Accumulate gradients, over processes if `sync_gradients`, without an update."""
        with gradient_exchange(self.engine, sync_gradients):
            self.engine.backward(loss, **kwargs)

    def get_global_grad_norm(self) -> float:
        """Norm of the gradient over all processes; NaN if a part of it is not finite."""
        norm = float(self.engine.optimizer.scaled_global_norm())
        return norm if norm >= 0 else torch.nan  # DeepSpeed says -1

    def step(self):
        """Clip the gradient, and update the weights."""
        # The weights may have changed since the last update: the logit scale is clamped.
        self.engine.optimizer.refresh_fp32_params()
        self.engine.step()

    def zero_grad(self):
        """Release the gradients, once an update with them was made or skipped."""
        if not self.accelerator.sync_gradients:
            return
        optimizer = self.engine.optimizer
        optimizer.zero_grad()
        for group in optimizer.averaged_gradients:
            optimizer.averaged_gradients[group] = None
