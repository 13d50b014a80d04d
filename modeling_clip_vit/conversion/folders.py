"""Write a folder as a whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .weights import ConversionError


def check_new(target: Path):
    """Refuse to write over anything.

    Raises:
        ConversionError: there is a file of that name, a folder that is not empty or is the current
            one, or a file where a folder above it should be.
    """
    place = target.resolve()
    if place == Path.cwd():
        raise ConversionError("the current folder cannot be replaced: name one that is not there")
    for parent in place.parents:
        if parent.exists() and not parent.is_dir():
            raise ConversionError(f"{str(target)!r} cannot be made: {str(parent)!r} is a file")
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise ConversionError(f"{str(target)!r} exists and is not an empty folder")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends, and nothing on an error.

    Raises:
        ConversionError: the target is there already, and not empty.
    """
    check_new(target)
    target = target.resolve()  # where a link leads
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
