"""A folder that a command writes: whole or not at all."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def check_new(target: Path):
    """Refuse a place where something lies.

    Raises:
        FileExistsError: it does.
    """
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise FileExistsError(f"{str(target)!r} exists and is not an empty folder")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` to write to, renamed to it at the end; an error leaves nothing."""
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
