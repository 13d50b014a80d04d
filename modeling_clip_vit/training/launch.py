"""Start Accelerate, and lock the folders of a run against other runs."""

import logging
import os
from pathlib import Path
from typing import TypedDict

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, DeepSpeedPlugin
from filelock import FileLock, Timeout

from ..utils.devices import copies_pinned, default_device
from ..utils.errors import UserError
from ..utils.processes import start_processes
from ..utils.resources import find_resource
from .arguments import TrainArguments
from .deepspeed import build_zero_plugin, is_zero_launched, set_zero_precision
from .precision import Precision, choose_precision
from .sharding import load_pretrained_whole
from .trackers import find_trackers

logger = logging.getLogger(__name__)


class LaunchError(UserError):
    """A launch that would not train as requested; the message is one clear sentence."""


def start_launched(args: TrainArguments) -> DeepSpeedPlugin | None:
    """Start the processes that were launched.

    Returns:
        DeepSpeed's settings if the launch asks for DeepSpeed.

    Raises:
        UserError: they would not train together, or DeepSpeed not as the arguments ask for it.
    """
    device = default_device()
    check_environment(device)
    # It rejects what DeepSpeed does not support, before anything starts.
    zero_plugin = build_zero_plugin(args) if is_zero_launched() else None
    start_processes(**process_options(device, zero_plugin is not None))
    return zero_plugin


def start_accelerator(
    args: TrainArguments,
    zero_plugin: DeepSpeedPlugin | None = None,
    kept: Precision | None = None,
) -> tuple[Accelerator, Precision]:
    """Start Accelerate in the precision for the arguments and the device, after `start_launched`.

    Args:
        args: of the run.
        zero_plugin: DeepSpeed's settings, from `start_launched`.
        kept: the precision that a checkpoint keeps, of a run that is resumed.

    Raises:
        UserError: it would not train as requested, or a tracker is not installed.
    """
    is_zero = zero_plugin is not None
    trackers = find_trackers(args.run.report_to)
    device_type = default_device().type
    precision = choose_precision(args, device_type, kept)
    if zero_plugin is not None:
        set_zero_precision(zero_plugin, precision)
    accelerator = Accelerator(
        # With cpu=True, Accelerate would silently ignore DeepSpeed.
        cpu=device_type == "cpu" and not is_zero,
        mixed_precision="no" if is_zero else precision.autocast,
        deepspeed_plugin=zero_plugin,
        gradient_accumulation_steps=args.optimizer.gradient_accumulation_steps,
        dataloader_config=DataLoaderConfiguration(non_blocking=copies_pinned(device_type)),
        log_with=trackers or None,
        project_dir=str(Path(args.run.output_dir) / "runs"),
    )
    load_pretrained_whole(accelerator)
    return accelerator, precision


class ProcessOptions(TypedDict, total=False):
    """Options of `start_processes`."""

    cpu: bool
    backend: str


def process_options(device: torch.device, is_zero: bool) -> ProcessOptions:
    """Options of `start_processes` that DeepSpeed needs."""
    if not is_zero:
        return {}
    # With cpu=True, Accelerate would silently ignore DeepSpeed.
    return {"cpu": False, "backend": "gloo"} if device.type == "cpu" else {"cpu": False}


def check_environment(device: torch.device):
    """Reject launches that Accelerate would silently turn into something else.

    Raises:
        LaunchError: with what to launch instead.
    """
    if device.type != "cpu":
        return
    if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
        raise LaunchError(
            "FSDP needs GPUs: here Accelerate would silently train with DistributedDataParallel; "
            f"launch with --config_file {find_resource('accelerate', 'cpu')}"
        )
    # Accelerate's CPU launcher sets a rendezvous address for several processes, but starts one.
    if "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise LaunchError(
            "several processes were requested, but Accelerate's CPU launcher started one: launch "
            f"with --config_file {find_resource('accelerate', 'cpu')}"
        )


class FolderLock:
    """Locks the folder of a run against other runs.

    Args:
        folder: that the run writes to; created if it does not exist.
        field: the option that names it, for the message.

    Raises:
        LaunchError: another run writes to it.
    """

    def __init__(self, folder: Path, field: str):
        folder.mkdir(parents=True, exist_ok=True)
        # The operating system releases it when this process ends, even if it is killed.
        self.lock = FileLock(folder / ".lock")
        try:
            self.lock.acquire(timeout=0)
        except Timeout as error:
            raise LaunchError(
                f"another run writes to {folder}: wait for it, or choose another {field}"
            ) from error
        except (NotImplementedError, OSError) as error:
            logger.warning(
                "%s cannot be locked (%s): make sure that no other run writes to it", folder, error
            )

    def __enter__(self) -> "FolderLock":
        return self

    def __exit__(self, *error):
        """Release the lock."""
        if self.lock.is_locked:
            Path(self.lock.lock_file).unlink(missing_ok=True)
            self.lock.release()
