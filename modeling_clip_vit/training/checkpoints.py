"""Checkpoints to resume from: complete or not there at all."""

import json
import os
import shutil
from pathlib import Path

from accelerate import Accelerator

PROGRESS_FILE = "progress.json"


class SaveError(OSError):
    """Something could not be written; the message is one clear sentence."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message is one clear sentence."""


def save_checkpoint(accelerator: Accelerator, folder: Path, progress: dict, keep: int) -> Path:
    """Save all that a run needs to go on, in `folder/step-N`.

    It is written beside its place and then renamed, so a run that dies while writing leaves the
    older checkpoints as they were. Of the complete ones, the newest `keep` stay.

    Args:
        accelerator: holds model, optimiser, scaler and random states.
        folder: where the checkpoints of this run lie.
        progress: plain values; `progress["step"]` names the checkpoint.
        keep: number of checkpoints to keep.

    Raises:
        SaveError: there is no room, or no permission; what lay there before is untouched.
    """
    name = f"step-{progress['step']:08d}"
    partial, final = folder / f".{name}.partial", folder / name
    try:
        if accelerator.is_main_process:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(partial))
        if accelerator.is_main_process:
            (partial / PROGRESS_FILE).write_text(json.dumps(progress), encoding="utf-8")
            sync_files(partial)
            shutil.rmtree(final, ignore_errors=True)
            partial.rename(final)
            sync_folder(folder)
            for old in list_checkpoints(folder)[:-keep]:
                shutil.rmtree(old, ignore_errors=True)
    except Exception as error:  # safetensors and torch have their own errors for a full disk
        shutil.rmtree(partial, ignore_errors=True)
        raise SaveError(
            f"cannot save the checkpoint {final}: {first_line(error)}; what was saved before is "
            "untouched, so make room and go on with --resume_from_checkpoint latest"
        ) from error
    accelerator.wait_for_everyone()
    return final


def sync_files(folder: Path):
    """Wait until the files of a folder are on the disk, not only in the system's memory."""
    for path in [*folder.rglob("*")]:
        if path.is_file():
            with open(path, "rb") as file:
                os.fsync(file.fileno())


def sync_folder(folder: Path):
    """Wait until a folder's list of names is on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def list_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    return sorted(path.parent for path in folder.glob(f"step-*/{PROGRESS_FILE}"))


def find_checkpoint(resume_from: str, folder: Path) -> Path:
    """The checkpoint that `resume_from` means: a folder, or the newest one for `latest`.

    Raises:
        CheckpointError: there is none.
    """
    if resume_from == "latest":
        found = list_checkpoints(folder)
        if not found:
            raise CheckpointError(
                f"there is no checkpoint in {folder} to resume from: run without "
                "--resume_from_checkpoint"
            )
        return found[-1]
    if not (Path(resume_from) / PROGRESS_FILE).is_file():
        raise CheckpointError(f"{resume_from} is not a checkpoint: it has no {PROGRESS_FILE}")
    return Path(resume_from)


def load_checkpoint(accelerator: Accelerator, path: Path) -> dict:
    """Bring model, optimiser, scaler and random states back; returns the progress.

    Raises:
        CheckpointError: it is damaged, or of another model.
    """
    try:
        progress = json.loads((path / PROGRESS_FILE).read_text(encoding="utf-8"))
        accelerator.load_state(str(path))
    except Exception as error:
        raise CheckpointError(
            f"cannot resume from {path}: {first_line(error)}; it is damaged or belongs to another "
            "model or optimiser"
        ) from error
    return progress


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":.") if lines else type(error).__name__


def replace_files(source: Path, target: Path):
    """Move every file of `source` into `target`, each at once, over an older one of its name."""
    sync_files(source)
    for path in sorted(source.iterdir()):
        os.replace(path, target / path.name)
    source.rmdir()
