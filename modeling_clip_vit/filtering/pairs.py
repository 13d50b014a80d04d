"""Read rows as pairs of an image and its captions, ready to be embedded.

Shape legend: `B` rows of a batch.
"""

import hashlib
import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image
from transformers import BatchFeature

from ..data.captions import find_texts
from ..data.decoding import BadImageError, decode_image
from ..data.errors import DataError
from ..data.files.places import locate_image
from ..data.rows import Row, SkippedSample
from ..data.sources import Shards
from ..search.reading import LARGEST_FILE, hash_looks, hash_pixels

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass
class Pair:
    """What was read of a row.

    Args:
        shard, number: where the row is.
        name: what to call it.
        error: why it cannot be read; empty if it can.
        row: the row itself; None if it cannot be read.
        captions: its texts.
        width, height: of the image in pixels, upright or not.
        sha256, pixel_hash: digests of the encoded image and of its pixels.
        perceptual_hash: see `hash_looks`.
        inputs: what the image processor made of the image.
    """

    shard: int
    number: int
    name: str
    error: str = ""
    row: Row | None = None
    captions: list[str] = field(default_factory=list)
    width: int = 0
    height: int = 0
    sha256: bytes | None = None
    pixel_hash: bytes | None = None
    perceptual_hash: int | None = None
    inputs: BatchFeature | None = None


class PairReader:
    """Reads pairs; safe to call from several threads.

    Args:
        image_column, caption_columns: of the dataset.
        prepare: an image processor; None to embed nothing.
        least_side: JPEGs may be decoded at a smaller size that is at least this many pixels; 0
            decodes at full size.
        has_hashes: whether digests of images are needed.
    """

    def __init__(
        self,
        image_column: str,
        caption_columns: list[str],
        prepare: Callable[..., BatchFeature] | None,
        least_side: int,
        has_hashes: bool,
    ):
        self.image_column, self.caption_columns = image_column, caption_columns
        self.prepare, self.least_side, self.has_hashes = prepare, least_side, has_hashes

    def __call__(self, place: tuple[int, int, Row | SkippedSample]) -> Pair:
        """Read the row of a shard."""
        shard, number, row = place
        if isinstance(row, SkippedSample):
            return Pair(shard, number, row.name, row.reason)
        pair = Pair(shard, number, row.name, row=row)
        pair.captions = [
            text for column in self.caption_columns for text in find_texts(row.columns.get(column))
        ]
        try:
            self.read_image(pair, read_bytes(row.columns.get(self.image_column), row.folder))
        except (DataError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return Pair(shard, number, row.name, reason or type(error).__name__)
        return pair

    def read_image(self, pair: Pair, content: bytes):
        """Decode the image of a pair as far as it is needed.

        Raises:
            BadImageError: it cannot be decoded.
        """
        image = decode_image(content, self.least_side)
        with Image.open(io.BytesIO(content)) as header:
            pair.width, pair.height = header.size
        if self.has_hashes:
            pair.sha256 = hashlib.sha256(content).digest()
            pair.pixel_hash = bytes.fromhex(hash_pixels(image))
            pair.perceptual_hash = hash_looks(image)
        if self.prepare is not None:
            pair.inputs = self.prepare([image], return_tensors="pt")


def read_bytes(source: Any, folder: str) -> bytes:
    """The encoded image of a row.

    Args:
        source: bytes, a path, base64, or the `{"bytes", "path"}` of `datasets`.
        folder: what a relative path begins at.

    Raises:
        BadImageError: there is none, or it is too large.
        DataError: it is a web address.
        OSError: its file cannot be read.
    """
    if isinstance(source, str):
        source = locate_image(source, folder)
    if isinstance(source, dict):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise BadImageError("there is no image")
    if isinstance(source, str):
        path = Path(folder) / source
        if path.stat().st_size > LARGEST_FILE:
            raise BadImageError(f"{path.stat().st_size:,} bytes are more than {LARGEST_FILE:,}")
        return path.read_bytes()
    if not isinstance(source, bytes):
        raise BadImageError(f"a {type(source).__name__} is no image")
    return source


def read_rows(shards: Shards) -> Iterator[tuple[int, int, Row | SkippedSample]]:
    """Every row of a split with its shard and its number in it."""
    for shard in range(len(shards)):
        for number, row in shards.read(shard, 0, lambda _: True):
            yield shard, number, row
