"""Resume from a checkpoint: restore what it keeps into model, optimiser and running mean."""

import itertools
import json
import logging
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.checkpointing import load_accelerator_state
from accelerate.utils import RNG_STATE_NAME, DistributedType
from accelerate.utils.other import load
from torch import nn

from ..utils.devices import read_random_state
from ..utils.errors import first_line
from .checkpoint_writer import INDEX_FILE, has_own_files, reader_file
from .checkpoints import CheckpointError
from .states import model_tensors, restore_optimizer, restore_tensors

logger = logging.getLogger(__name__)

#: What Accelerate called the weights of a model that FSDP2 had gathered.
GATHERED_FILE = "pytorch_model_fsdp.bin"


def load_checkpoint(
    accelerator: Accelerator, path: Path, model: nn.Module, optimizer: torch.optim.Optimizer
):
    """Restore model, optimiser, scaler and random states.

    Args:
        accelerator: holds scaler and random states.
        path: a complete checkpoint.
        model: without what Accelerate wrapped around it.
        optimizer: of the model, without what Accelerate wrapped around it.

    Raises:
        CheckpointError: it is of another model, or of a strategy that this one cannot go on from.
    """
    try:
        if (path / INDEX_FILE).is_file() and not has_own_files(accelerator):
            restore_tensors(model_tensors(model), path, "model")
            index = json.loads((path / INDEX_FILE).read_text(encoding="utf-8"))
            restore_optimizer(optimizer, model, path, index)
            load_small_states(accelerator, path)
        else:
            check_strategy(accelerator, path)
            accelerator.load_state(str(path))
        check_random_states(accelerator, path)
    except (RuntimeError, ValueError, KeyError) as error:
        raise as_checkpoint_error(path, error) from error


def as_checkpoint_error(path: Path, error: Exception) -> CheckpointError:
    """What to say where a whole checkpoint does not fit."""
    if isinstance(error, CheckpointError):
        return error
    return CheckpointError(
        f"cannot resume from {path}: {first_line(error)}; it belongs to another model or optimiser"
    )


def load_average(tensors: dict[str, torch.Tensor], path: Path):
    """Restore the running mean of the weights.

    Args:
        tensors: the mean, by name.
        path: a complete checkpoint that has one.

    Raises:
        CheckpointError: it is of another model.
    """
    try:
        restore_tensors(tensors, path, "average")
    except (RuntimeError, ValueError, KeyError) as error:
        raise as_checkpoint_error(path, error) from error


def has_average(path: Path) -> bool:
    """Whether a checkpoint has a running mean of the weights."""
    return any(path.glob("average*.safetensors"))


def load_small_states(accelerator: Accelerator, path: Path):
    """Restore scaler and random states."""
    place = accelerator.process_index
    restored = load_accelerator_state(str(path), [], [], [], [], place, accelerator.scaler)
    accelerator.step = restored.get("step", accelerator.step)


def check_strategy(accelerator: Accelerator, path: Path):
    """Reject a checkpoint that another strategy wrote in files of its own.

    Raises:
        CheckpointError: with how to go on from it.
    """
    strategy = accelerator.distributed_type
    if any(path.glob("*/*_optim_states.pt")) and strategy != DistributedType.DEEPSPEED:
        raise CheckpointError(
            f"cannot resume from {path}: it was saved with DeepSpeed, without which no run goes "
            "on from it"
        )
    is_gathered = (path / GATHERED_FILE).is_file()
    if is_gathered != (strategy == DistributedType.FSDP):
        saved, now = ("with", "without") if is_gathered else ("without", "with")
        raise CheckpointError(
            f"cannot resume from {path}: an older release saved it {saved} FSDP2, and this run is "
            f"{now} it: launch as it was launched, save once, and then change the strategy"
        )


def check_random_states(accelerator: Accelerator, path: Path):
    """Warn where random states were saved, but not restored: Accelerate says nothing of it.

    Args:
        accelerator: has loaded the checkpoint.
        path: of the checkpoint.
    """
    file = path / f"{RNG_STATE_NAME}_{accelerator.process_index}.pkl"
    if not file.is_file():  # another number of processes, which is said elsewhere
        return
    states, device = load(file), accelerator.device
    here, on_device = read_random_state(device)
    pairs = [(states.get("torch_manual_seed"), here)]
    saved = states.get(f"torch_{device.type}_manual_seed")
    if saved is not None and on_device is not None:
        index = device.index or 0
        pairs.append((saved[index] if index < len(saved) else None, on_device))
    if any(then is None or not torch.equal(then, now) for then, now in pairs):
        logger.warning(
            "the random numbers of %s are not restored, as on a machine with another number of "
            "GPUs: dropout and augmentation differ from those of a run that goes on uninterrupted",
            path,
        )


def read_places(path: Path) -> list[dict]:
    """Where each process read a stream, in the order of their numbers; empty without a stream."""
    files = (path / reader_file(process) for process in itertools.count())
    return [
        json.loads(file.read_text(encoding="utf-8"))
        for file in itertools.takewhile(Path.is_file, files)
    ]
