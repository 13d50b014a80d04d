"""Read image-text samples from WebDataset tars, whatever is broken in them.

A sample consists of consecutive files that share a name up to its first dot:
`0001.jpg`, `0001.txt`, `0001.json`. If no picture of a tar has such a name, names end at the last
dot.
"""

import json
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import PurePosixPath
from typing import Any

import fsspec

from ...utils.errors import first_line
from ..decoding import PICTURE_SUFFIXES
from ..rows import Row, SkippedSample
from .tables import check_text

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
IMAGE_EXTENSIONS = frozenset(suffix.removeprefix(".") for suffix in PICTURE_SUFFIXES)
TEXT_EXTENSIONS = frozenset(("txt", "text", "caption", "cls"))
READ_EXTENSIONS = IMAGE_EXTENSIONS | TEXT_EXTENSIONS | {"json"}
#: Number of members to look at to decide where names end.
NAMES_TO_SEE = 200
#: What is said of a picture whose name has a dot too many.
DOTTED = (
    "a name ends at its first dot, so that {key!r} has a file {extension!r}, which is no picture: "
    "take the dots out of the names"
)


@dataclass
class Piece:
    """One file of a sample, or what is wrong at its place."""

    number: int
    key: str = ""
    extension: str = ""
    content: bytes = b""
    error: str = ""


def read_tar(url: str, wanted: Callable[[int], bool]) -> Iterator[tuple[int, Row | SkippedSample]]:
    """The wanted samples of a tar, by number.

    Columns are `image`, the image again under its extension (`jpg`), texts under theirs (`txt`),
    the fields of a JSON file, and `caption`, which is `txt` unless the JSON has a caption. A
    damaged part counts as a `SkippedSample` that names it, and reading continues with the next
    file, if there is one.

    Args:
        url: a path or anything that fsspec opens.
        wanted: whether to read the sample of a number; others are passed over.
    """
    for number, pieces in groupby(read_pieces(url, wanted), lambda piece: piece.number):
        yield number, make_row(url, list(pieces))


def read_pieces(url: str, wanted: Callable[[int], bool]) -> Iterator[Piece]:
    """Files of the wanted samples; whatever fails ends the tar with a piece that says so."""
    number, last_key = -1, None
    extensions: set[str] = set()
    try:
        ends_at_last_dot = have_dots(url)
        with fsspec.open(url, "rb") as file, tarfile.open(fileobj=file, ignore_zeros=True) as tar:
            for member, damage in find_members(tar):
                if damage:
                    number, last_key = number + 1, None
                    if wanted(number):
                        yield Piece(number, error=damage)
                key, extension = split_name(member, ends_at_last_dot)
                if member is None or key is None:
                    continue
                # A second picture of one name is another sample.
                if key != last_key or extension in extensions:
                    number, last_key, extensions = number + 1, key, set()
                extensions.add(extension)
                if wanted(number) and is_dotted_picture(extension):
                    yield Piece(number, key, extension)
                if wanted(number) and extension in READ_EXTENSIONS:
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]
                    yield Piece(number, key, extension, content)
    except Exception as error:  # tarfile, decompressors and remote systems each have their own
        if wanted(number + 1):
            yield Piece(number + 1, error=f"the rest cannot be read: {first_line(error)}")


def is_dotted_picture(extension: str) -> bool:
    """Whether what stands behind the first dot of a name is more than a picture's ending."""
    start, _, end = extension.rpartition(".")
    return bool(start) and end in IMAGE_EXTENSIONS


def have_dots(url: str) -> bool:
    """Whether the pictures of a tar have dots within their names, all of those that are seen."""
    names = []
    with fsspec.open(url, "rb") as file, tarfile.open(fileobj=file, ignore_zeros=True) as tar:
        for member, _ in islice(find_members(tar), NAMES_TO_SEE):
            key, extension = split_name(member)
            if key is not None and extension.rpartition(".")[2] in IMAGE_EXTENSIONS:
                names.append(extension)
    return bool(names) and not any(extension in IMAGE_EXTENSIONS for extension in names)


def find_members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo | None, str]]:
    """Members, each with what is wrong before it; None stands for the end of the tar.

    tarfile mistakes a damaged header for the end, or skips it silently: only the offset at which a
    member should have begun reveals it.
    """
    expected = 0
    while True:
        member = tar.next()
        place = member.offset if member else None
        yield member, describe_gap(tar, expected, place)
        if member is None:
            return
        expected = tar.offset
        tar.members = []  # type: ignore[attr-defined]  # tarfile keeps them all


def describe_gap(tar: tarfile.TarFile, expected: int, place: int | None) -> str:
    """What is wrong where a header should be; nothing where the tar only ends."""
    if place == expected:
        return ""
    tar.fileobj.seek(expected)  # type: ignore[union-attr]
    block = tar.fileobj.read(tarfile.BLOCKSIZE)  # type: ignore[union-attr]
    if not block:
        return f"it ends at byte {expected} without the mark of an end: samples may be missing"
    if any(block):
        return f"it is damaged from byte {expected}" + (f" to {place}" if place else " on")
    return ""


def split_name(member: tarfile.TarInfo | None, at_last_dot: bool = False) -> tuple[str | None, str]:
    """The key and the extension of a file; no key for what is no part of a sample."""
    if member is None or not member.isfile():
        return None, ""
    path = PurePosixPath(member.name)
    cut = path.name.rpartition if at_last_dot else path.name.partition
    stem, dot, extension = cut(".")
    if not stem or not dot:
        return None, ""
    return str(path.with_name(stem)), extension.lower()


def make_row(url: str, pieces: list[Piece]) -> Row | SkippedSample:
    """One sample of its files."""
    shard = PurePosixPath(url).name
    columns: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    dotted = ""
    for piece in pieces:
        if piece.error:
            return SkippedSample(url, piece.error)
        name = f"{shard}, {piece.key}"
        if is_dotted_picture(piece.extension):
            dotted = piece.extension
            continue
        try:
            if piece.extension in IMAGE_EXTENSIONS:
                columns["image"] = columns[piece.extension] = piece.content
            elif piece.extension in TEXT_EXTENSIONS:
                columns[piece.extension] = piece.content.decode("utf-8-sig").strip()
            else:
                fields = dict(json.loads(piece.content.decode("utf-8-sig")))
        except (ValueError, TypeError) as error:
            return SkippedSample(name, f"its {piece.extension} cannot be read: {error}")
    if dotted and "image" not in columns:
        return SkippedSample(name, DOTTED.format(key=piece.key, extension=dotted))
    columns = {**fields, **columns}
    if "txt" in columns and columns.get("caption") is None:
        columns["caption"] = columns["txt"]
    checked = check_text(columns)
    if isinstance(checked, str):
        return SkippedSample(name, checked)
    return Row(name, columns)
