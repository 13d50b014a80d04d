"""The processes of a run: who they are, and that they are those that were asked for."""

import fcntl
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs

from .arguments import TrainArguments
from .precision import choose_precision
from .zero import build_zero_plugin, is_zero_launched


class LaunchError(ValueError):
    """A launch that would not do what was asked; the message is one clear sentence."""


def start_accelerator(args: TrainArguments) -> Accelerator:
    """Accelerate, in the precision that the arguments and the device allow.

    Raises:
        LaunchError: it would train other than was asked for.
    """
    device_type = "cuda" if torch.cuda.is_available() else "cpu"
    check_environment(device_type)
    precision = choose_precision(args.run, device_type)
    is_zero = is_zero_launched()
    meeting: dict[str, Any] = {"timeout": timedelta(hours=2)}
    if is_zero and device_type == "cpu":
        meeting["backend"] = "gloo"
    trackers = [] if args.run.report_to in ("none", "") else args.run.report_to.split(",")
    accelerator = Accelerator(
        # Without this, processes launched where no GPU is would each train alone.
        # (With it, DeepSpeed would be left out in silence.)
        cpu=device_type == "cpu" and not is_zero,
        mixed_precision="no" if is_zero else precision,
        deepspeed_plugin=build_zero_plugin(args, precision) if is_zero else None,
        gradient_accumulation_steps=args.optimizer.gradient_accumulation_steps,
        log_with=trackers or None,
        project_dir=str(Path(args.run.output_dir) / "runs"),
        # The others wait while the main process evaluates or uploads.
        kwargs_handlers=[InitProcessGroupKwargs(**meeting)],
    )
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != wanted:
        raise LaunchError(
            f"{wanted} processes were launched, but this one is in a group of "
            f"{accelerator.num_processes}: each would train alone"
        )
    return accelerator


def check_environment(device_type: str):
    """Refuse launches that Accelerate would quietly make something else of.

    Raises:
        LaunchError: with what to launch instead.
    """
    if device_type != "cpu":
        return
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise LaunchError(
            "FSDP needs GPUs: here Accelerate would quietly train with DistributedDataParallel; "
            "launch with configuration/accelerate/cpu.yaml"
        )
    # Accelerate's launcher for CPUs names a meeting place for several processes and starts one.
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise LaunchError(
            "several processes were asked for, but Accelerate's CPU launcher started one: launch "
            "with configuration/accelerate/cpu.yaml"
        )


class FolderLock:
    """Keeps a second run from writing to the folder of one that is still running.

    Args:
        folder: where the run writes; made if it is not there.
        field: the argument that names it, for the message.

    Raises:
        LaunchError: another run writes to it.
    """

    def __init__(self, folder: Path, field: str):
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / ".lock"
        self.descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT)
        try:
            # The system lets go of it when this process ends, however it ends.
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self.descriptor)
            raise LaunchError(
                f"another run writes to {folder}: wait for it, or give another {field}"
            ) from error

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error):
        """Let others write."""
        self.path.unlink(missing_ok=True)
        os.close(self.descriptor)
