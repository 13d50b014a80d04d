"""Patterns of files: wildcards, and braces as a shell, webdataset and open_clip have them."""

import glob
from pathlib import Path

from braceexpand import braceexpand

from ..errors import DataError


def expand_braces(pattern: str) -> list[str]:
    """What braces stand for, in their order: `{8..10}.tar` is `8.tar`, `9.tar` and `10.tar`.

    Raises:
        DataError: a brace is not closed, or was not opened.
    """
    try:
        return list(dict.fromkeys(braceexpand(pattern, escape=False)))
    except ValueError as error:
        raise DataError(f"{pattern!r} has a brace without its counterpart") from error


def find_files(pattern: str) -> list[Path]:
    """The files that a pattern means: with wildcards those that fit, with braces every one.

    Braces of names that exist are no pattern. Files are in order, those of braces in theirs.

    Raises:
        DataError: no file fits, or one that braces name is missing.
    """
    files = fitting(pattern)
    if files:
        return files
    names = expand_braces(pattern)
    if names == [pattern]:
        what = "no file fits the pattern" if glob.has_magic(pattern) else "no folder"
        raise DataError(
            f"{what} {pattern!r} (looked in {Path.cwd()}): give a folder, a file, a pattern of "
            "files or a Hub id"
        )
    found: dict[Path, None] = {}
    for name in names:
        files = fitting(name)
        if not files:
            what = "no file fits" if glob.has_magic(name) else "there is no file"
            raise DataError(
                f"{what} {name!r}, one of the {len(names)} that {pattern!r} stands for (looked in "
                f"{Path.cwd()})"
            )
        found.update(dict.fromkeys(files))
    return list(found)


def fitting(pattern: str) -> list[Path]:
    """The files that fit a pattern with wildcards, in order; the file of that name without any."""
    names = sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))
    return [Path(name) for name in names if Path(name).is_file()]
