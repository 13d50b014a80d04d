"""Which picture files a folder holds: names, sizes and times, without opening any."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from ..data.files.hidden import is_hidden
from .formats import STILL_SUFFIXES, has_developed_twin
from .settings import PictureIndexError

SCAN_SCHEMA = pa.schema(
    [("path", pa.string()), ("size", pa.int64()), ("modified", pa.timestamp("us", "UTC"))]
)


@dataclass
class Scan:
    """The pictures of a folder.

    Args:
        root: the folder, absolute.
        files: path relative to it (with slashes), size in bytes and time of change of each.
        closed: folders, relative to it, that could not be looked into; nothing is known of them.
        left_out: other files that were passed over, and why.
    """

    root: Path
    files: pa.Table
    closed: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def scan_folder(root: Path, suffixes: frozenset[str] = STILL_SUFFIXES) -> Scan:
    """List the picture files below a folder, in the order of their paths.

    Hidden files are passed over, links that lead out of the folder, and a RAW beside its JPEG.

    Args:
        root: the folder.
        suffixes: how the names of pictures end, in lower case.

    Raises:
        PictureIndexError: there is no such folder, or it cannot be looked into.
    """
    root = root.expanduser().resolve()
    scan = Scan(root, SCAN_SCHEMA.empty_table())
    try:
        os.scandir(root).close()
    except OSError as error:
        raise PictureIndexError(f"{str(root)!r} cannot be read: {error.strerror}") from error
    paths: list[str] = []
    sizes: list[int] = []
    times: list[int] = []
    for path, state in walk(scan, "", suffixes):
        paths.append(path)
        sizes.append(state.st_size)
        times.append(state.st_mtime_ns // 1000)
    columns = [pa.array(paths), pa.array(sizes, pa.int64()), pa.array(times, pa.int64())]
    columns[2] = columns[2].cast(pa.timestamp("us", "UTC"))
    scan.files = pa.table(columns, schema=SCAN_SCHEMA)
    return scan


def walk(scan: Scan, folder: str, suffixes: frozenset[str]) -> Iterator[tuple[str, os.stat_result]]:
    """The pictures below a folder of a scan, which notes what cannot be looked into."""
    try:
        with os.scandir(scan.root / folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        scan.closed.append(folder)
        return
    names = {entry.name.lower() for entry in found}
    for entry in found:
        name = entry.name
        if is_hidden(name) or has_developed_twin(names, name):
            continue
        path = f"{folder}/{name}" if folder else name
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from walk(scan, path, suffixes)
            elif os.path.splitext(name)[1].lower() in suffixes and check_name(scan, entry, path):
                yield path, entry.stat()
        except OSError as error:
            scan.left_out.append(f"{path!r} ({error.strerror})")


def check_name(scan: Scan, entry: os.DirEntry, path: str) -> bool:
    """Whether a file can be indexed by its name and place; notes the reason where it cannot."""
    try:
        path.encode()
    except UnicodeEncodeError:
        scan.left_out.append(f"{path!r} (its name is not UTF-8)")
        return False
    if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(scan.root):
        scan.left_out.append(f"{path!r} (a link out of the folder)")
        return False
    return entry.is_file()
