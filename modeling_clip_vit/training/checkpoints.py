"""Checkpoints to resume from: complete or not there at all."""

import glob
import json
import logging
import platform
import shutil
import tempfile
import uuid
import zlib
from collections.abc import Generator, Iterator
from pathlib import Path

from accelerate import PartialState
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from ..utils.errors import UserError, first_line
from ..utils.folders import SaveError, make_empty, partial_path, replace_folder, saving
from ..utils.processes import from_main, gather_all
from .options import RunOptions

logger = logging.getLogger(__name__)

#: Written last: what it lists is all there, with its size and its checksum.
PROGRESS_FILE = "progress.json"
#: What the files with a model's weights are called.
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")


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

    def begin(self, name: str):
        """Make the folder that a checkpoint is written to; on the main process."""
        make_empty(partial_path(self.folder / name))
        if not self.is_local and self.files.exists(f"{self.root}/{name}"):
            self.remove(name)

    def upload(self, partial: Path, name: str, files: list[str]):
        """Upload files of a checkpoint that this process has written, to an object store."""
        if not self.is_local:
            for file in files:
                self.files.put_file(str(partial / file), f"{self.root}/{name}/{file}")

    def raise_error(self, error: Exception, name: str):
        """Raise what kept a checkpoint from being saved.

        Raises:
            SaveError: the system, an object store or another process refused.
        """
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

    def commit(self, partial: Path, name: str, progress: dict, written: dict[str, list[int]]):
        """Complete a checkpoint by its manifest, and move it into place; on the main process.

        Args:
            partial: the folder that it was written to.
            name: of the checkpoint.
            progress: plain values.
            written: size and CRC-32 of the files that processes have written and uploaded.

        Raises:
            SaveError: another process wrote to a folder that this one does not see.
        """
        paths = [path for path in sorted(partial.rglob("*")) if path.is_file()]
        names = [path.relative_to(partial).as_posix() for path in paths]
        others = [file for file in names if file not in written]
        files = written | {file: size_and_crc32(partial / file) for file in others}
        text = json.dumps({**progress, "files": files})
        (partial / PROGRESS_FILE).write_text(text, encoding="utf-8")
        if not self.is_local:
            self.upload(partial, name, [*others, PROGRESS_FILE])
            return
        for file in written:
            if not (partial / file).is_file():
                raise SaveError(
                    f"cannot save the checkpoint {self.place}/{name}: the main process does not "
                    f"see {file} of another process; checkpoint_dir must be on a file system that "
                    "all of them share, or in an object store"
                )
        replace_folder(partial, self.folder / name)

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

    def candidates(self, resume_from: str) -> Iterator[tuple[Path, slice]]:
        """Local folders of the checkpoints that `resume_from` refers to, the best first.

        A copy from an object store is removed before the next one is made.

        Args:
            resume_from: a checkpoint's folder or URL, or `latest` or `auto` for the newest complete
                one.

        Yields:
            The folder, and which of its files this process checks.

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

    def localize(self, names: list[str]) -> Iterator[tuple[Path, slice]]:
        """Local folders of checkpoints, and the share of files that this process checks.

        From an object store, the first process of each machine copies them, one by one.
        """
        if self.is_local:
            state = PartialState()
            share = slice(state.process_index, None, state.num_processes)
            yield from ((self.folder / name, share) for name in names)
            return
        place, count, first = machine_mates()
        share = slice(place, None, count)
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                reason = self.download(name, folder) if place == 0 else ""
                copies = gather_all((folder, reason))
                for _, refusal in copies:
                    if refusal:
                        raise CheckpointError(f"cannot resume from {self.place}/{name}: {refusal}")
                yield Path(copies[first][0]) / name, share
                shutil.rmtree(f"{folder}/{name}", ignore_errors=True)

    def download(self, name: str, folder: str) -> str:
        """Copy a checkpoint of an object store into a folder; returns why it cannot, if so."""
        try:
            self.files.get(f"{self.root}/{name}", f"{folder}/{name}", recursive=True)
        except Exception as error:  # each store has errors of its own
            return first_line(error)
        return ""


def machine_mates() -> tuple[int, int, int]:
    """Place of this process among those of its machine, their number, and the first one's rank."""
    machines = gather_all((platform.node(), uuid.getnode()))
    state = PartialState()
    mates = [rank for rank, one in enumerate(machines) if one == machines[state.process_index]]
    return mates.index(state.process_index), len(mates), mates[0]


def size_and_crc32(path: Path) -> list[int]:
    """Size and CRC-32 of a file."""
    checksum = 0
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            checksum = zlib.crc32(block, checksum)
    return [path.stat().st_size, checksum]


def check_whole(path: Path, share: slice = slice(None)) -> dict:
    """Verify the files of a checkpoint against its manifest, and return the saved progress.

    Args:
        path: of the checkpoint.
        share: which files to verify, of all in the order of their sizes.

    Raises:
        CheckpointError: it is no checkpoint, or a file is missing or changed.
    """
    if not (path / PROGRESS_FILE).is_file():
        raise CheckpointError(f"{path} is not a checkpoint: it has no {PROGRESS_FILE}")
    try:
        progress = json.loads((path / PROGRESS_FILE).read_text(encoding="utf-8"))
        files = progress["files"]
        for name in sorted(files, key=lambda name: (files[name], name))[share]:
            if size_and_crc32(path / name) != files[name]:
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


def refuse_to_replace(checkpoints: CheckpointStore, options: RunOptions):
    """Reject a new run that would replace an earlier one; all processes call this.

    They go by what the main process sees.

    Raises:
        CheckpointError: there are checkpoints or a model, or the checkpoints cannot be listed.
    """
    if options.resume_from_checkpoint is not None or options.overwrite_output_dir:
        return
    names, output_dir = checkpoints.names_for_all(), Path(options.output_dir)
    found, places, ways = [], [], []
    if from_main(has_model(output_dir)):
        found.append(f"{output_dir} holds a model")
        places.append("--output_dir")
    if names:
        found.append(f"{checkpoints.place} holds checkpoints up to {names[-1]}")
        places.append("--checkpoint_dir" if options.checkpoint_dir else "--output_dir")
        ways.append("go on with --resume_from_checkpoint latest")
    if not found:
        return
    ways.append(f"choose another {' and '.join(dict.fromkeys(places))}")
    raise CheckpointError(
        f"{' and '.join(found)}, which a new run would replace: {', '.join(ways)}, or let it do so "
        "with --overwrite_output_dir true"
    )


def has_model(folder: Path) -> bool:
    """Whether a folder holds a saved model: its configuration and weights."""
    weights = (path for pattern in WEIGHTS for path in folder.glob(pattern))
    return (folder / "config.json").is_file() and any(weights)


def checkpoint_to_resume(
    checkpoints: CheckpointStore, resume_from: str | None
) -> Generator[tuple[Path, dict]]:
    """The checkpoint to resume from, an older one where the newest is damaged; and its progress.

    The processes check its files together, each a share of them. It is there until the generator is
    closed.

    Raises:
        CheckpointError: none can be used.
    """
    if resume_from is None:
        return
    error = None
    for path, share in checkpoints.candidates(resume_from):
        state, reason = {}, ""
        try:
            state = check_whole(path, share)
        except CheckpointError as damage:
            reason = str(damage)
            logger.warning("%s", reason)
        # All processes resume from the same one.
        reasons = [one for one in gather_all(reason) if one]
        if not reasons:
            yield path, state
            return
        error = error or CheckpointError(reasons[0])
    if error:
        raise error
