"""From a file to what an index keeps of it: pixels for the model, hashes, metadata.

Shape legend: `Y` and `X` rows and columns of pixels.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.decoding import BadImageError
from ..utils.packages import MissingPackageError
from .formats import VIDEO_SUFFIXES, decode_still, open_header, video_frames
from .metadata import read_metadata
from .preparation import Preparation

#: Larger files are not read into memory.
LARGEST_FILE = 2**30


@dataclass
class Item:
    """One picture to index, or one video.

    Args:
        columns: what is known before it is read: id, path, root, name, size, modified, and those of
            a dataset's row.
        content: the encoded picture, where it is no file of its own.
        error: why it cannot be read, if that is known beforehand.
    """

    columns: dict[str, Any]
    content: bytes | None = None
    error: str | None = None

    @property
    def suffix(self) -> str:
        """How the name of its file ends, in lower case."""
        return Path(self.columns["path"]).suffix.lower() if self.content is None else ""

    @property
    def is_video(self) -> bool:
        """Whether it is a file of many pictures."""
        return self.suffix in VIDEO_SUFFIXES


@dataclass
class Prepared:
    """One picture, read and decoded.

    Args:
        columns: of its row.
        pixels: uint8 (Y, X, 3); None where it could not be read or its content is known.
        is_gone: whether the file is no longer there.
    """

    columns: dict[str, Any] = field(default_factory=dict)
    pixels: np.ndarray | None = None
    is_gone: bool = False


class PictureReader:
    """Reads and decodes pictures; safe to call from several threads.

    Args:
        preparation: of the model.
        is_known: whether the index has the vector of a content with this SHA-256 (hexadecimal).
        video_seconds: seconds between two frames of a video.
    """

    def __init__(
        self,
        preparation: Preparation,
        is_known: Callable[[str], bool] = lambda _: False,
        video_seconds: float = 10.0,
    ):
        self.preparation, self.is_known = preparation, is_known
        self.video_seconds = video_seconds

    def __call__(self, item: Item) -> list[Prepared]:
        """Read one picture, or the frames of a video; what is wrong goes into `error`."""
        if item.error is not None:
            return [Prepared(item.columns | {"error": item.error})]
        try:
            return self.read_video(item) if item.is_video else [self.read_picture(item)]
        except FileNotFoundError:
            return [Prepared(item.columns, is_gone=True)]
        except (OSError, BadImageError, MissingPackageError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return [Prepared(item.columns | {"error": reason or type(error).__name__})]

    def read_picture(self, item: Item) -> Prepared:
        """Read one picture; one of a known content is not decoded."""
        content = item.content if item.content is not None else read_file(item.columns)
        columns = item.columns | {"sha256": hashlib.sha256(content).hexdigest()}
        if self.is_known(columns["sha256"]):
            return Prepared(columns)
        image = decode_still(content, item.suffix, self.preparation.least_side)
        columns["width"], columns["height"] = image.size
        header = open_header(content, item.suffix)
        if header is not None:
            with header:
                columns |= read_metadata(header)
        return self.describe(columns, image)

    def read_video(self, item: Item) -> list[Prepared]:
        """Frames of a video, each a row of its own with its time."""
        path = Path(item.columns["root"]) / item.columns["path"]
        digest = hash_file(path)
        frames = []
        for time, image in video_frames(path, self.video_seconds):
            columns = item.columns | {
                "id": f"{item.columns['id']}#t={time:g}",
                "name": f"{item.columns['name']} {clock(time)}",
                "time": time,
                "sha256": hashlib.sha256(f"{digest}#t={time:g}".encode()).hexdigest(),
            }
            columns["width"], columns["height"] = image.size
            frames.append(self.describe(columns, image))
        return frames

    def describe(self, columns: dict[str, Any], image: Image.Image) -> Prepared:
        """Hashes of a decoded picture, and its pixels for the model."""
        columns["pixel_hash"] = hash_pixels(image)
        columns["perceptual_hash"] = hash_looks(image)
        return Prepared(columns, self.preparation(image))


def read_file(columns: dict[str, Any]) -> bytes:
    """The content of a file.

    Raises:
        OSError: it cannot be read.
        BadImageError: it is too large.
    """
    if columns["size"] > LARGEST_FILE:
        raise BadImageError(f"{columns['size']:,} bytes are more than {LARGEST_FILE:,}")
    return (Path(columns["root"]) / columns["path"]).read_bytes()


def hash_file(path: Path) -> str:
    """SHA-256 of a file of any size."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


def clock(seconds: float) -> str:
    """A time as hours, minutes and seconds, such as 0:02:05."""
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02}"
