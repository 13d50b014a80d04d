"""Decode an image from anywhere into RGB pixels of one size.

Shape legend: `N` images, `S` side in pixels.
"""

import io
import math
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from os import cpu_count
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image, ImageOps
from torch.nn.functional import interpolate

from .errors import DataError


class BadImageError(DataError):
    """An image that cannot be decoded."""


def decode_image(source: Any, least_side: int = 0, least_area: int = 0) -> Image.Image:
    """Decode to RGB: upright by its EXIF tag, transparent pixels on white, 16 bits scaled to 8.

    Of an animation, the first frame.

    Args:
        source: encoded bytes, a path, a PIL image, or the `{"bytes", "path"}` of `datasets`.
        least_side, least_area: a JPEG may come at a half, a quarter or an eighth of its size, as
            long as its shorter side and all of it keep so many pixels: its decoder then has less
            to do. Without a side, the full size.

    Raises:
        BadImageError: it is missing, truncated, no image, or larger than Pillow's
            `MAX_IMAGE_PIXELS`.
    """
    if isinstance(source, dict):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise BadImageError("there is no image")
    try:
        opened: Any = io.BytesIO(source) if isinstance(source, bytes) else source
        image = opened if isinstance(opened, Image.Image) else Image.open(opened)
        check_size(image)
        if least_side:
            reduce_jpeg(image, least_side, least_area)
        image = scale_to_8_bits(ImageOps.exif_transpose(image))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            white = Image.new("RGBA", image.size, "white")
            image = Image.alpha_composite(white, image)
        return image if image.mode == "RGB" else image.convert("RGB")
    except Exception as error:  # Pillow's decoders raise more than thirty types
        # Without the address of the buffer, which no two runs have in common.
        reason = re.sub(r" <_io\..*?>", "", str(error)).replace("\n", " ")
        raise BadImageError(f"{type(error).__name__}: {reason}") from error


def check_size(image: Image.Image):
    """Refuse what Pillow only warns of up to twice its limit: decoding costs memory and minutes.

    Raises:
        DecompressionBombError: it has more pixels than Pillow's `MAX_IMAGE_PIXELS`.
    """
    pixels, limit = image.width * image.height, Image.MAX_IMAGE_PIXELS
    if limit is not None and pixels > limit:
        raise Image.DecompressionBombError(f"{pixels:,} pixels are more than {limit:,}")


def reduce_jpeg(image: Image.Image, least_side: int, least_area: int):
    """Let a JPEG that is not decoded yet come smaller; does nothing to other formats."""
    width, height = image.size
    factor = min(width / least_side, height / least_side)
    if least_area:
        factor = min(factor, math.sqrt(width * height / least_area))
    if factor >= 2:
        image.draft(None, (math.ceil(width / factor), math.ceil(height / factor)))


def scale_to_8_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits as grey of 8, which Pillow's own conversion clips instead."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    if image.mode == "I" and values.max(initial=0) <= 255:
        return image
    scaled = (values.astype(np.float32) / 257).round().clip(0, 255)
    return Image.fromarray(scaled.astype(np.uint8))


def to_pixels(image: Image.Image, size: int) -> torch.Tensor:
    """Resize the shorter side to `size` and cut out the centre: uint8, (3, S, S)."""
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return resize_part(to_tensor(image), (top, left, side, side), size)


def to_tensor(image: Image.Image) -> torch.Tensor:
    """The pixels of an image of any size: uint8, (3, height, width)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def resize_part(pixels: torch.Tensor, part: tuple[int, int, int, int], size: int) -> torch.Tensor:
    """Cut out a part and resize it: uint8, (3, height, width) to (3, S, S).

    torch's kernel for uint8 takes a quarter of Pillow's time, and its values are those of
    Transformers' image processors.

    Args:
        pixels: of an image.
        part: top, left, height and width.
        size: side S of what is wanted.
    """
    top, left, height, width = part
    pixels = pixels[:, top : top + height, left : left + width]
    if (height, width) == (size, size):
        return pixels
    # The fast kernel takes pixels whose channels lie together, as Pillow has them.
    packed = pixels[None].contiguous(memory_format=torch.channels_last)
    return interpolate(packed, (size, size), mode="bicubic", antialias=True).squeeze(0)


@dataclass
class BadSamples:
    """Images that could not be decoded: counted, and the first few named."""

    limit: float
    seen: int = 0
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, name: str, reason: str):
        """Note one bad image."""
        self.count += 1
        if len(self.examples) < 20:
            self.examples.append(f"{name} ({reason})")

    def check(self, path: str):
        """Raise a DataError if their share is over the limit."""
        if self.seen and self.count > self.limit * self.seen:
            raise DataError(
                f"{self.count} of {self.seen} images of {path!r} cannot be decoded, more than "
                f"max_bad_sample_ratio={self.limit:g} allows; the first: {self.examples[0]}"
            )


def decode_all(
    split: Dataset, column: str, size: int, path: str, max_bad_sample_ratio: float
) -> tuple[torch.Tensor, list[int], BadSamples]:
    """Decode every image of a split once.

    Args:
        split: the rows; images still encoded.
        column: the column of images.
        size: side S of the pixels wanted.
        path: name of the data set in messages.
        max_bad_sample_ratio: the share of undecodable images to put up with.

    Returns:
        Pixels, uint8 (N, 3, S, S); the row number of each; and what could not be decoded.

    Raises:
        DataError: more images are bad than `max_bad_sample_ratio` allows, or all are.
    """

    def decode(row: int) -> torch.Tensor | BadImageError:
        try:
            return to_pixels(decode_image(images[row]), size)
        except BadImageError as error:
            return error

    images = split[column]
    bad = BadSamples(max_bad_sample_ratio, seen=len(split))
    rows, pixels = [], []
    with ThreadPoolExecutor(cpu_count()) as pool:
        for row, decoded in enumerate(pool.map(decode, range(len(split)))):
            if isinstance(decoded, BadImageError):
                bad.add(image_name(images[row], row), str(decoded))
            else:
                rows.append(row)
                pixels.append(decoded)
    bad.check(path)
    if not pixels:
        raise DataError(f"no image of {path!r} can be decoded; the first: {bad.examples[0]}")
    return torch.stack(pixels), rows, bad


def image_name(source: Any, row: int) -> str:
    """What to call an image in a message: its path if it has one, and its row."""
    path = source.get("path") if isinstance(source, dict) else None
    return f"row {row}, {path}" if path else f"row {row}"
