"""Write a folder as a whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .weights import ConversionError


def check_new(target: Path):
    """Refuse to write over anything.

    Raises:
        ConversionError: there is a file of that name, or a folder that is not empty.
    """
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise ConversionError(f"{str(target)!r} exists and is not an empty folder")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder to fill, which becomes `target` when the block ends, and nothing on an error.

    Raises:
        ConversionError: the target is there already, and not empty.
    """
    check_new(target)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
