"""Write files and folders as a whole or not at all.

Everything is written under another name first, synced to the disk, and then renamed: after a full
disk, a kill or a power cut, the previous files are still there.
"""

import errno
import json
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .errors import UserError, first_line

#: Error codes for a full disk, an exhausted quota or a file that is too large.
FULL = (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC))

#: How `torch.save` says that a file could not be written to its end.
TORCH_WRITE_FAILED = r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+"


class SaveError(UserError):
    """Something could not be written; the message is one clear sentence."""


def is_disk_full(error: BaseException | None) -> bool:
    """Whether an error, or what caused it, says that there is no more room."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in FULL:
            return True
        # safetensors has an error of its own around the system's, and torch says no number at all.
        number = re.search(r"os error (\d+)", str(error))
        if (number and int(number[1]) in FULL) or re.search(TORCH_WRITE_FAILED, str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def saving(what: str, hint: str) -> Iterator[None]:
    """Turn a system's refusal to write into one sentence; every other error stays what it is.

    Args:
        what: what was to be written, as in "cannot save WHAT".
        hint: what is still there, and how to go on.

    Raises:
        SaveError: the disk is full, or the system refused otherwise.
    """
    try:
        yield
    except Exception as error:
        if is_disk_full(error):
            reason = f"{first_line(error)}; {hint}, so make room"
        elif isinstance(error, OSError):
            reason = f"{first_line(error)}; {hint}"
        else:
            raise
        raise SaveError(f"cannot save {what}: {reason}") from error


def check_picture(path: Path):
    """Check the name of a picture as `check_file` does.

    Raises:
        UserError: it has an ending that no picture has, or its folder cannot be made.
    """
    from matplotlib.backend_bases import FigureCanvasBase

    endings = sorted(FigureCanvasBase.get_supported_filetypes())
    check_file(path, endings, "a picture")


def check_file(path: Path, endings: Sequence[str], what: str):
    """Make the folder of a file, and refuse one that could not be saved in the end.

    Args:
        path: of the file.
        endings: that its name may have, without the dot.
        what: what it is, as in "cannot be the name of WHAT".

    Raises:
        UserError: its name has another ending, or its folder cannot be made.
    """
    if path.suffix[1:].lower() not in endings:
        raise UserError(
            f"{str(path)!r} cannot be the name of {what}: it must end in one of "
            f"{', '.join(endings)}"
        )
    if path.is_dir():
        raise UserError(f"{str(path)!r} is a folder: name a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{str(path)!r} cannot be made: {first_line(error)}") from error


def check_new(target: Path):
    """Reject a target that would overwrite anything.

    Raises:
        UserError: there is a file of that name, a folder that is not empty or is the current one,
            or a file where a folder above it should be.
    """
    place = target.resolve()
    if place == Path.cwd():
        raise UserError("the current folder cannot be replaced: name one that is not there")
    for parent in place.parents:
        if parent.exists() and not parent.is_dir():
            raise UserError(f"{str(target)!r} cannot be made: {str(parent)!r} is a file")
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise UserError(
            f"{str(target)!r} exists and is not an empty folder: name one that is not there"
        )


def write_json(path: Path, content: Any):
    """Write values as indented JSON.

    Raises:
        ValueError: a number is not finite, which JSON cannot express.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends and is removed on an error.

    Raises:
        UserError: the target is there already, and not empty.
    """
    check_new(target)
    with replaced_folder(target.resolve()) as partial:  # a link stays one
        yield partial


@contextmanager
def replaced_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which replaces `target` when the block ends; on an error, nothing does."""
    with partial_folder(target) as partial:
        yield partial
        replace_folder(partial, target)


@contextmanager
def partial_folder(target: Path) -> Iterator[Path]:
    """An empty folder next to `target`, which is removed when the block ends."""
    partial = partial_path(target)
    try:
        make_empty(partial)
        yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def partial_path(target: Path) -> Path:
    """Where a folder is filled before it becomes `target`: the same name on every process."""
    return target.with_name(f".{target.name}.partial")


def make_empty(folder: Path):
    """Make a folder, without what an interrupted run may have left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)


@contextmanager
def replaced_file(target: Path) -> Iterator[Path]:
    """A path to write to, which replaces the file `target` when the block ends.

    It has the suffix of `target`. On an error, or if another process writes `target` as well, the
    file is still a whole one.
    """
    partial = target.with_name(f".{os.getpid()}.partial.{target.name}")
    try:
        yield partial
        sync_file(partial)
        os.replace(partial, target)
        sync_folder(target.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def committed_files(folder: Path, names: list[str]) -> Iterator[Path]:
    """A folder to fill, whose files replace those of `folder` when the block ends.

    On an error, none is replaced.

    Args:
        folder: of the files; made if it does not exist.
        names: extended by the names of the files that were written.
    """
    with partial_folder(folder / "files") as partial:
        yield partial
        written = sorted(path.name for path in partial.iterdir())
        replace_files(partial, folder)
        names += [name for name in written if name not in names]


def replace_files(source: Path, target: Path):
    """Move every file of `source` into `target`, each at once, over an older one of its name."""
    sync_files(source)
    for path in sorted(source.iterdir()):
        os.replace(path, target / path.name)
    sync_folder(target)


def replace_folder(source: Path, target: Path):
    """Move a folder to `target`, replacing an older one that may be there.

    The older one is moved aside first, and deleted when the new one is in its place, so that
    `target` is never half of either.
    """
    sync_files(source)
    former = target.with_name(f".{target.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if target.is_dir():
        target.rename(former)
    source.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(former, ignore_errors=True)


def sync_files(folder: Path):
    """Wait until the files of a folder are on the disk, not only in the system's memory."""
    for path in [*folder.rglob("*")]:
        if path.is_file():
            sync_file(path)


def sync_file(path: Path):
    """Wait until a file is on the disk, not only in the system's memory."""
    # Windows syncs only what may be written.
    with open(path, "rb+" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path):
    """Wait until a folder's list of names is on the disk; Windows has nothing to wait for."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
