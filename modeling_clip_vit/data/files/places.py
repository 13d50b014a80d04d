"""Where the picture of a row is: a file, however its path is written, or the text itself."""

import base64
import binascii
import unicodedata
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import DataError

#: Shorter texts are taken for paths: not even the smallest image has so few characters.
SHORTEST_BASE64 = 64
#: How the files of pictures begin (JPEG, PNG, GIF, BMP, TIFF, WebP's RIFF, JPEG 2000, netpbm);
#: AVIF and its like say `ftyp` from the fifth byte on.
SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF"),
    *(b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51", b"P1", b"P2", b"P3", b"P4", b"P5", b"P6"),
)


def locate_image(text: str, folder: str) -> dict[str, Any]:
    """The picture that a text stands for, as the `{"bytes", "path"}` of `datasets`.

    Args:
        text: a path, or a picture in base64 or as a `data:` URI.
        folder: what a relative path begins at.

    Raises:
        DataError: it is a web address.
    """
    content = decode_base64(text)
    if content is not None:
        return {"bytes": content, "path": None}
    if "://" in text[:12]:
        raise DataError(
            f"{text[:60]!r} is an address: pictures are not downloaded here; img2dataset fetches "
            "them into tars that can be read"
        )
    return {"bytes": None, "path": find_path(text, folder)}


def decode_base64(text: str) -> bytes | None:
    """Decode a picture in base64, standard or URL-safe, or in a `data:` URI; None for other text.

    A long name of hexadecimal digits is valid base64 too, so the content must begin like a picture
    file.
    """
    if text.startswith("data:") and "," in text[:100]:
        text = text.split(",", 1)[1]
    if len(text) < SHORTEST_BASE64:
        return None
    try:
        content = base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        return None
    is_picture = content.startswith(SIGNATURES) or content[4:8] == b"ftyp"
    return content if is_picture else None


def find_path(text: str, folder: str) -> str:
    """The path of a file as it is written on this disk.

    A table may have another form of Unicode than the disk (a Mac decomposes what it writes), and
    backslashes where this system has slashes. Where no file is found, the path as it is given.
    """
    for written in dict.fromkeys((text, text.replace("\\", "/"))):
        path = Path(folder) / Path(written).expanduser()
        if path.is_file():
            return str(path)
        normalized = find_normalized(path)
        if normalized is not None:
            return str(normalized)
    return str(Path(folder) / Path(text).expanduser())


def find_normalized(path: Path) -> Path | None:
    """A file of this path in any form of Unicode; None where there is none."""
    existing = Path(path.anchor or ".")
    for part in path.parts[1:] if path.anchor else path.parts:
        if (existing / part).exists():
            existing /= part
            continue
        if not existing.is_dir():
            return None
        names = names_of(existing, existing.stat().st_mtime_ns)
        name = names.get(unicodedata.normalize("NFC", part))
        if name is None:
            return None
        existing /= name
    return existing if existing.is_file() else None


@lru_cache(1000)
def names_of(folder: Path, changed: int) -> dict[str, str]:
    """Composed form of each name in a folder, as it was when it last changed -> the name."""
    try:
        return {unicodedata.normalize("NFC", entry.name): entry.name for entry in folder.iterdir()}
    except OSError:
        return {}
