"""From a file to what an index keeps of it: pixels for the model, hashes, metadata.

Shape legend: `S` side in pixels.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.decoding import BadImageError, decode_image
from .encoders import Preparation
from .metadata import read_metadata

#: Larger files are not read into memory.
LARGEST_FILE = 2**30


@dataclass
class Item:
    """One picture to index.

    Args:
        columns: what is known before it is read: id, path, root, name, size, modified, and those of
            a dataset's row.
        content: the encoded picture, where it is no file of its own.
    """

    columns: dict[str, Any]
    content: bytes | None = None


@dataclass
class Prepared:
    """One picture, read and decoded.

    Args:
        columns: of its row.
        pixels: uint8 (S, S, 3); None where it could not be read or its content is known.
        is_known: whether the index has the vector of this content already.
        is_gone: whether the file is no longer there.
    """

    columns: dict[str, Any] = field(default_factory=dict)
    pixels: np.ndarray | None = None
    is_known: bool = False
    is_gone: bool = False


class PictureReader:
    """Reads and decodes pictures; safe to call from several threads.

    Args:
        preparation: of the model.
        is_known: whether the index has the vector of a content with this SHA-256 (hexadecimal).
    """

    def __init__(self, preparation: Preparation, is_known: Callable[[str], bool] = lambda _: False):
        self.preparation, self.is_known = preparation, is_known

    def __call__(self, item: Item) -> Prepared:
        """Read one picture; what is wrong with it goes into the column `error`."""
        columns = dict(item.columns)
        try:
            content = item.content if item.content is not None else read_file(columns)
            columns["sha256"] = hashlib.sha256(content).hexdigest()
            if self.is_known(columns["sha256"]):
                return Prepared(columns, is_known=True)
            found, pixels = self.decode(content)
            return Prepared(columns | found, pixels)
        except FileNotFoundError:
            return Prepared(columns, is_gone=True)
        except (OSError, BadImageError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Prepared(columns | {"error": reason or type(error).__name__})

    def decode(self, content: bytes) -> tuple[dict[str, Any], np.ndarray]:
        """What the file says of a picture with the hashes of its pixels, and pixels for the model.

        Raises:
            BadImageError: it cannot be decoded.
        """
        image = decode_image(content, self.preparation.least_side)
        with Image.open(io.BytesIO(content)) as opened:
            columns = read_metadata(opened)
        columns["pixel_hash"] = hash_pixels(image)
        columns["perceptual_hash"] = hash_looks(image)
        return columns, self.preparation(image)


def read_file(columns: dict[str, Any]) -> bytes:
    """The content of a file, whose size is then what was read.

    Raises:
        OSError: it cannot be read.
        BadImageError: it is too large.
    """
    if columns["size"] > LARGEST_FILE:
        raise BadImageError(f"{columns['size']:,} bytes are more than {LARGEST_FILE:,}")
    return (Path(columns["root"]) / columns["path"]).read_bytes()


def hash_pixels(image: Image.Image) -> str:
    """SHA-256 of the pixels of an RGB image and of its size."""
    digest = hashlib.sha256(f"{image.width}x{image.height}:".encode())
    digest.update(image.tobytes())
    return digest.hexdigest()


def hash_looks(image: Image.Image) -> int:
    """A hash of 64 bits that scaling and compression hardly change (dHash, Krawetz 2013).

    Each bit says whether one of 9 x 8 grey pixels is darker than its right neighbour.
    """
    small = image.resize((9, 8), Image.Resampling.BILINEAR, reducing_gap=2.0).convert("L")
    grey = np.asarray(small, dtype=np.int16)
    bits = (grey[:, :-1] < grey[:, 1:]).flatten()
    return int.from_bytes(np.packbits(bits).tobytes())
