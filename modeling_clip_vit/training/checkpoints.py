"""Checkpoints to resume from: complete or not there at all."""

import glob
import itertools
import json
import logging
import shutil
import tempfile
import zlib
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import RNG_STATE_NAME
from accelerate.utils.other import load
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from safetensors.torch import load_file, save_file

from ..utils.devices import read_random_state
from ..utils.errors import UserError, first_line
from ..utils.folders import SaveError, make_empty, partial_path, replace_folder, saving
from ..utils.processes import all_reduce_max, from_main
from .options import RunOptions
from .restart import PROCESSOR_FOLDER

logger = logging.getLogger(__name__)

#: Written last: what it lists is all there, with its size and its checksum.
PROGRESS_FILE = "progress.json"
AVERAGE_FILE = "average.safetensors"


class CheckpointError(UserError):
    """A checkpoint that cannot be used; the message is one clear sentence."""


class CheckpointStore:
    """The checkpoints of one run, in a folder or in an object store.

    In a folder, a checkpoint is written under another name and then renamed. An object store has no
    rename: there `progress.json` is uploaded last. Either way, an incomplete one is ignored.

    Args:
        place: a folder, or a URL that fsspec knows, such as `s3://bucket/run`.
        staging: a local folder to write to first.
    """

    def __init__(self, place: str, staging: Path):
        try:
            self.files, self.root = url_to_fs(place)
        except (ImportError, ValueError) as error:
            raise CheckpointError(f"checkpoint_dir={place!r}: {first_line(error)}") from error
        self.is_local = isinstance(self.files, LocalFileSystem)
        self.place = place
        self.folder = Path(self.root) if self.is_local else staging

    def save(
        self,
        accelerator: Accelerator,
        progress: dict,
        average: dict[str, torch.Tensor] | None,
        reader: dict | None,
        processor: Any,
        keep: int,
    ) -> str:
        """Save all that a run needs to resume, as `step-N`; all processes call it.

        A run that dies while saving leaves the older checkpoints as they were. The newest `keep`
        complete ones stay.

        Args:
            accelerator: holds model, optimiser, scaler and random states.
            progress: plain values; `progress["step"]` names the checkpoint.
            average: the running mean of the weights, if there is one.
            reader: plain values that tell where this process reads a stream, if it does.
            processor: with the tokenizer that the model knows.
            keep: number of checkpoints to keep.

        Returns:
            The path or URL of the checkpoint.

        Raises:
            SaveError: there is no room, or no permission; what was saved before is untouched.
        """
        name = f"step-{progress['step']:08d}"
        partial = partial_path(self.folder / name)
        errors: list[Exception] = []

        def attempt(work: Callable[[], None]):
            """Do a part of the work, unless one before has failed; then wait for the others."""
            try:
                if not errors:
                    work()
            except Exception as error:
                errors.append(error)
            accelerator.wait_for_everyone()

        def begin():
            if accelerator.is_main_process:
                make_empty(partial)

        def write():
            accelerator.save_state(str(partial))
            if reader is not None:
                path = partial / reader_file(accelerator.process_index)
                path.write_text(json.dumps(reader), encoding="utf-8")
            if accelerator.is_main_process:
                processor.save_pretrained(partial / PROCESSOR_FOLDER)
                if average is not None:
                    save_file(average, partial / AVERAGE_FILE)

        def finish():
            if accelerator.is_main_process:
                self.commit(partial, name, progress)
                self.prune(name, keep)

        for work in (begin, write):
            attempt(work)
        # A checkpoint that one process could not write to must not count.
        if all_reduce_max([len(errors)], accelerator.device) != [0] and not errors:
            errors.append(SaveError("another process could not write its part"))
        attempt(finish)
        failed = from_main(bool(errors))
        if errors or failed:
            shutil.rmtree(partial, ignore_errors=True)
            self.raise_error(errors, name)
        return f"{self.place}/{name}"

    def raise_error(self, errors: list[Exception], name: str):
        """Raise what kept a checkpoint from being saved.

        Raises:
            SaveError: the system, an object store or another process refused.
        """
        error = errors[0] if errors else SaveError("the main process could not write it")
        if not self.is_local and not isinstance(error, UserError):
            error = OSError(first_line(error))  # each store has errors of its own
        hint = "what was saved before is untouched; go on with --resume_from_checkpoint latest"
        with saving(f"the checkpoint {self.place}/{name}", hint):
            raise error

    def prune(self, newest: str, keep: int):
        """Remove all but the newest checkpoints of this run.

        Checkpoints of later steps than the one just written are stale: they are from an older run,
        or from before this run was resumed from an earlier checkpoint.
        """
        names = self.names()
        for name in [name for name in names if name > newest]:
            self.remove(name)
        for name in [name for name in names if name <= newest][:-keep]:
            self.remove(name)

    def commit(self, partial: Path, name: str, progress: dict):
        """Complete a written checkpoint by its manifest, and move or upload it into place."""
        paths = [path for path in sorted(partial.rglob("*")) if path.is_file()]
        files = {str(path.relative_to(partial)): size_and_crc32(path) for path in paths}
        text = json.dumps({**progress, "files": files})
        (partial / PROGRESS_FILE).write_text(text, encoding="utf-8")
        if self.is_local:
            replace_folder(partial, self.folder / name)
            return
        target = f"{self.root}/{name}"
        if self.files.exists(target):
            self.remove(name)
        for file in [*files, PROGRESS_FILE]:
            self.files.put_file(str(partial / file), f"{target}/{file}")
        shutil.rmtree(partial)

    def remove(self, name: str):
        """Remove a checkpoint, first the file that completes it."""
        target = f"{self.root}/{name}"
        if self.files.exists(f"{target}/{PROGRESS_FILE}"):
            self.files.rm(f"{target}/{PROGRESS_FILE}")
        self.files.rm(target, recursive=True)

    def names(self) -> list[str]:
        """The complete checkpoints, oldest first."""
        self.files.invalidate_cache()
        paths = self.files.glob(f"{glob.escape(self.root)}/step-*/{PROGRESS_FILE}")
        return sorted(Path(path).parent.name for path in paths)

    def names_for_all(self) -> list[str]:
        """The complete checkpoints that the main process sees, for all processes to go by.

        On a network file system, the others may not see the newest one yet.

        Raises:
            CheckpointError: it cannot list them.
        """
        names, reason = [], ""
        if PartialState().is_main_process:
            try:
                names = self.names()
            except Exception as error:  # the others wait, whatever it is
                reason = first_line(error)
        names, reason = from_main((names, reason))
        if reason:
            raise CheckpointError(f"the checkpoints in {self.place} cannot be listed: {reason}")
        return names

    def candidates(self, resume_from: str) -> Iterator[Path]:
        """Local folders of the checkpoints that `resume_from` refers to, the best first.

        A copy from an object store is removed before the next one is made.

        Args:
            resume_from: a checkpoint's folder or URL, or `latest` or `auto` for the newest complete
                one.

        Raises:
            CheckpointError: there is none, unless `auto` allows that.
        """
        if resume_from not in ("latest", "auto"):
            place, _, name = resume_from.rstrip("/").rpartition("/")
            yield from CheckpointStore(place or ".", self.folder).localize([name])
            return
        names = self.names_for_all()
        if not names and resume_from == "latest":
            raise CheckpointError(
                f"there is no checkpoint in {self.place} to resume from: run without "
                "--resume_from_checkpoint, or with auto to begin where there is none"
            )
        yield from self.localize(names[::-1])

    def localize(self, names: list[str]) -> Iterator[Path]:
        """Local folders of checkpoints; from an object store, they are copied one by one."""
        if self.is_local:
            yield from (self.folder / name for name in names)
            return
        # Each process has its own copy.
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                self.files.get(f"{self.root}/{name}", f"{folder}/{name}", recursive=True)
                yield Path(folder) / name
                shutil.rmtree(f"{folder}/{name}")


def reader_file(process: int) -> str:
    """Name of the file that tells where a process reads a stream."""
    return f"reader_{process}.json"


def size_and_crc32(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return [path.stat().st_size, checksum]


def check_whole(path: Path) -> dict:
    """Verify every file of a checkpoint against its manifest, and return the saved progress.

    Raises:
        CheckpointError: it is no checkpoint, or a file is missing or changed.
    """
    if not (path / PROGRESS_FILE).is_file():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {PROGRESS_FILE}")
    try:
        progress = json.loads((path / PROGRESS_FILE).read_text(encoding="utf-8"))
        for name, expected in progress["files"].items():
            if size_and_crc32(path / name) != expected:
                raise CheckpointError(f"{name} is not as it was written")
    except Exception as error:
        raise CheckpointError(
            f"cannot resume from {path}: {first_line(error)}; it is damaged"
        ) from error
    return progress


def open_store(options: RunOptions) -> CheckpointStore:
    """Where the checkpoints of a run are."""
    folder = Path(options.output_dir) / "checkpoints"
    return CheckpointStore(options.checkpoint_dir or str(folder), folder)


def checkpoint_to_resume(
    device: torch.device, checkpoints: CheckpointStore, resume_from: str | None
) -> Generator[tuple[Path, dict]]:
    """The checkpoint to resume from, an older one where the newest is damaged; and its progress.

    It is there until the generator is closed.

    Raises:
        CheckpointError: none can be used.
    """
    if resume_from is None:
        return
    error = None
    for path in checkpoints.candidates(resume_from):
        state = None
        try:
            state = check_whole(path)
        except CheckpointError as reason:
            logger.warning("%s", reason)
            error = reason
        # All processes resume from the same one.
        if all_reduce_max([0 if state else 1], device) == [0] and state:
            yield path, state
            return
        error = error or CheckpointError(f"cannot resume from {resume_from}")
    if error:
        raise error


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


def load_checkpoint(
    accelerator: Accelerator, path: Path
) -> tuple[dict[str, torch.Tensor] | None, list[dict]]:
    """Restore model, optimiser, scaler and random states.

    Args:
        accelerator: holds them.
        path: a complete checkpoint.

    Returns:
        The saved running mean of the weights, and the saved places in a stream of all processes
        that read it.

    Raises:
        CheckpointError: it is of another model.
    """
    try:
        accelerator.load_state(str(path))
        check_random_states(accelerator, path)
        average = path / AVERAGE_FILE
        tensors = load_file(average) if average.is_file() else None
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(
            f"cannot resume from {path}: {first_line(error)}; it belongs to another model or "
            "optimiser"
        ) from error
    return tensors, read_places(path)


def read_places(path: Path) -> list[dict]:
    """Where each process read a stream, in the order of their numbers; empty without a stream."""
    files = (path / reader_file(process) for process in itertools.count())
    return [
        json.loads(file.read_text(encoding="utf-8"))
        for file in itertools.takewhile(Path.is_file, files)
    ]
