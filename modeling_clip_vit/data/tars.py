"""Read image-text samples from WebDataset tars, whatever is broken in them.

A sample is the files that stand together and share a name up to its first dot:
`0001.jpg`, `0001.txt`, `0001.json`.
"""

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import PurePosixPath
from typing import Any

import fsspec

from .batches import SkippedSample
from .errors import first_line

IMAGE_EXTENSIONS = frozenset(
    ("avif", "bmp", "gif", "jfif", "jpe", "jpeg", "jpg", "png", "tif", "tiff", "webp")
)
TEXT_EXTENSIONS = frozenset(("txt", "text", "caption", "cls"))
READ_EXTENSIONS = IMAGE_EXTENSIONS | TEXT_EXTENSIONS | {"json"}


@dataclass
class Row:
    """One row of a shard.

    Args:
        name: what to call it in a message; all that is random in its sample comes from it.
        columns: its values by column; images as bytes or as the `{"bytes", "path"}` of `datasets`.
        passes: how often the stream has started over before it.
        folder: what its paths to files begin at.
    """

    name: str
    columns: dict[str, Any]
    passes: int = field(default=0, compare=False)
    folder: str = ""


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

    Columns are `image`, the image under its extension too (`jpg`), texts under theirs (`txt`), the
    fields of a JSON file, and `caption`, which is `txt` unless the JSON has a caption. A damaged
    place counts as a row that names it, and reading goes on behind it where there is a next file.

    Args:
        url: a path or anything that fsspec opens.
        wanted: whether to read the sample of a number; others are passed over.
    """
    for number, pieces in groupby(read_pieces(url, wanted), lambda piece: piece.number):
        yield number, make_row(url, list(pieces))


def read_pieces(url: str, wanted: Callable[[int], bool]) -> Iterator[Piece]:
    """Files of the wanted samples; whatever fails ends the tar with a piece that says so."""
    number, last_key = -1, None
    try:
        with fsspec.open(url, "rb") as file, tarfile.open(fileobj=file, ignore_zeros=True) as tar:
            for member, damage in find_members(tar):
                if damage:
                    number, last_key = number + 1, None
                    if wanted(number):
                        yield Piece(number, error=damage)
                key, extension = split_name(member)
                if member is None or key is None:
                    continue
                if key != last_key:
                    number, last_key = number + 1, key
                if wanted(number) and extension in READ_EXTENSIONS:
                    content = tar.extractfile(member).read()  # type: ignore[union-attr]
                    yield Piece(number, key, extension, content)
    except Exception as error:  # tarfile, decompressors and remote systems each have their own
        if wanted(number + 1):
            yield Piece(number + 1, error=f"the rest cannot be read: {first_line(error)}")


def find_members(tar: tarfile.TarFile) -> Iterator[tuple[tarfile.TarInfo | None, str]]:
    """Members, each with what is wrong before it; None stands for the end of the tar.

    tarfile takes a damaged header for the end, or passes over it in silence: only the place where
    a member should have begun tells.
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


def split_name(member: tarfile.TarInfo | None) -> tuple[str | None, str]:
    """The key and the extension of a file; no key for what is no part of a sample."""
    if member is None or not member.isfile():
        return None, ""
    path = PurePosixPath(member.name)
    stem, dot, extension = path.name.partition(".")
    if not stem or not dot:
        return None, ""
    return str(path.with_name(stem)), extension.lower()


def make_row(url: str, pieces: Iterable[Piece]) -> Row | SkippedSample:
    """One sample of its files."""
    shard = PurePosixPath(url).name
    columns: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for piece in pieces:
        if piece.error:
            return SkippedSample(url, piece.error)
        name = f"{shard}, {piece.key}"
        try:
            if piece.extension in IMAGE_EXTENSIONS:
                columns["image"] = columns[piece.extension] = piece.content
            elif piece.extension in TEXT_EXTENSIONS:
                columns[piece.extension] = piece.content.decode().strip()
            else:
                fields = dict(json.loads(piece.content))
        except (ValueError, TypeError) as error:
            return SkippedSample(name, f"its {piece.extension} cannot be read: {error}")
    columns = {**fields, **columns}
    if "txt" in columns:
        columns.setdefault("caption", columns["txt"])
    return Row(name, columns)
