"""Start Accelerate, and keep a second run out of the folder of one that is still running."""

import logging
import os
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from filelock import FileLock, Timeout

from ..utils.devices import copies_pinned, default_device
from ..utils.errors import UserError
from ..utils.processes import start_processes
from ..utils.resources import find_resource
from .arguments import TrainArguments
from .precision import choose_precision
from .trackers import find_trackers
from .zero import build_zero_plugin, is_zero_launched, set_zero_precision

logger = logging.getLogger(__name__)


class LaunchError(UserError):
    """A launch that would not do what was asked; the message is one clear sentence."""


def start_accelerator(args: TrainArguments) -> tuple[Accelerator, str]:
    """Accelerate, in the precision that the arguments and the device allow.

    Returns:
        It, and the precision: `bf16`, `fp16` or `no`.

    Raises:
        UserError: it would not train as requested, or a tracker is not installed.
    """
    device = default_device()
    check_environment(device)
    trackers = find_trackers(args.run.report_to)
    is_zero = is_zero_launched()
    zero_plugin = build_zero_plugin(args) if is_zero else None
    start_processes(**process_options(device, is_zero))
    # The processes settle this together, so they have to be there.
    precision = choose_precision(args.run, device.type)
    if zero_plugin is not None:
        set_zero_precision(zero_plugin, precision)
    accelerator = Accelerator(
        # (With cpu=True, DeepSpeed would be left out in silence.)
        cpu=device.type == "cpu" and not is_zero,
        mixed_precision="no" if is_zero else precision,
        deepspeed_plugin=zero_plugin,
        gradient_accumulation_steps=args.optimizer.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(non_blocking=copies_pinned(device.type)),
        log_with=trackers or None,
        project_dir=str(Path(args.run.output_dir) / "runs"),
    )
    return accelerator, precision


def process_options(device: torch.device, is_zero: bool) -> dict[str, Any]:
    """How the processes meet, where DeepSpeed needs it to differ from `start_processes`."""
    if not is_zero:
        return {}
    backend = {"backend": "gloo"} if device.type == "cpu" else {}
    return {"cpu": False, **backend}  # with cpu=True, DeepSpeed would be left out in silence


def check_environment(device: torch.device):
    """Reject launches that Accelerate would silently turn into something else.

    Raises:
        LaunchError: with what to launch instead.
    """
    if device.type != "cpu":
        return
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise LaunchError(
            "FSDP needs GPUs: here Accelerate would quietly train with DistributedDataParallel; "
            f"launch with --config_file {find_resource('accelerate', 'cpu')}"
        )
    # Accelerate's CPU launcher sets a rendezvous address for several processes, but starts one.
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise LaunchError(
            "several processes were asked for, but Accelerate's CPU launcher started one: launch "
            f"with --config_file {find_resource('accelerate', 'cpu')}"
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
        # The system lets go of it when this process ends, however it ends.
        self.lock = FileLock(folder / ".lock")
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise LaunchError(
                f"another run writes to {folder}: wait for it, or give another {field}"
            ) from error
        except (NotImplementedError, OSError) as error:
            logger.warning(
                "%s cannot be locked (%s): see to it that no other run writes there", folder, error
            )

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error):
        """Let others write."""
        if self.lock.is_locked:
            Path(self.lock.lock_file).unlink(missing_ok=True)
            self.lock.release()
