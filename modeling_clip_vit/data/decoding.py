"""Decode an image from anywhere into RGB."""

import io
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .errors import DataError
from .jpeg import decode_jpeg

logger = logging.getLogger(__name__)

#: Endings of picture files that Pillow reads.
PICTURE_SUFFIXES = frozenset(
    (
        *(".apng", ".avif", ".bmp", ".gif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"),
        *(".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp"),
    )
)
#: How a PNG begins.
PNG = b"\x89PNG\r\n\x1a\n"


class BadImageError(DataError):
    """An image that cannot be decoded."""


def decode_image(source: Any, least_side: int = 0, least_area: int = 0) -> Image.Image:
    """Decode to RGB: upright by its EXIF tag, transparent pixels on white, more bits scaled to 8.

    An animation gives its first frame. Broken metadata is ignored. Where simplejpeg is installed,
    it decodes JPEGs, to the same pixels as Pillow.

    Args:
        source: encoded bytes, a path, a PIL image, or the `{"bytes", "path"}` of `datasets`.
        least_side, least_area: a JPEG may be decoded at a half, a quarter or an eighth of its size,
            which is faster, as long as its shorter side and its area keep at least this many
            pixels. With least_side 0, it is decoded at full size.

    Raises:
        BadImageError: it is missing, truncated, no image, or larger than Pillow's
            `MAX_IMAGE_PIXELS`.
    """
    decoded = decode_any(source, least_side, least_area)
    return Image.fromarray(decoded) if isinstance(decoded, np.ndarray) else decoded


def decode_transparent(content: bytes) -> Image.Image | None:
    """Decode a picture with transparent parts to RGBA, upright.

    Returns:
        The picture; None if no part of it is transparent, or if Pillow cannot read it as it is.
    """
    try:
        opened = Image.open(io.BytesIO(content))
        check_size(opened)
        if not opened.has_transparency_data:
            return None
        image = stand_upright(opened).convert("RGBA")
    except Exception as error:  # Pillow's decoders raise more than thirty types
        logger.debug("an image is not decoded with its transparent parts: %s", error)
        return None
    return image if np.asarray(image)[..., 3].min() < 255 else None


def decode_any(source: Any, least_side: int, least_area: int) -> Image.Image | np.ndarray:
    """As `decode_image`, but what was decoded into an array (height, width, 3) stays one."""
    if isinstance(source, dict):
        source = source.get("bytes") if source.get("bytes") is not None else source.get("path")
    if source is None:
        raise BadImageError("there is no image")
    try:
        try:
            return decode(source, least_side, least_area)
        except (SyntaxError, ValueError):
            stripped = without_metadata(source)
            if stripped is None:
                raise
            return decode(stripped, least_side, least_area)
    except Exception as error:  # Pillow's decoders raise more than thirty types
        # Without the address of the buffer, which no two runs have in common.
        reason = re.sub(r" <_io\..*?>", "", str(error)).replace("\n", " ")
        raise BadImageError(f"{type(error).__name__}: {reason}") from error


def decode(source: Any, least_side: int, least_area: int) -> Image.Image | np.ndarray:
    """The same, with the errors of Pillow."""
    opened: Any = io.BytesIO(source) if isinstance(source, bytes) else source
    image = opened if isinstance(opened, Image.Image) else Image.open(opened)
    check_size(image)
    if least_side:
        reduce_jpeg(image, least_side, least_area)
    pixels = decode_jpeg(image)
    if pixels is not None:
        return pixels
    image.load()
    image = scale_to_8_bits(stand_upright(image))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == "RGB" else image.convert("RGB")


def stand_upright(image: Image.Image) -> Image.Image:
    """Rotate an image as its EXIF tag says; leave it unchanged if the tag cannot be read."""
    try:
        return ImageOps.exif_transpose(image)
    except Exception as error:  # from a TIFF reader, which expects nothing but TIFF
        logger.debug("the EXIF data of an image cannot be read: %s", error)
        return image


def without_metadata(source: Any) -> bytes | None:
    """A PNG or WebP without the texts and the EXIF data in it; None for anything else."""
    content = source if isinstance(source, bytes) else None
    if isinstance(source, str | Path):
        content = Path(source).read_bytes()
    if content is None:
        return None
    if content.startswith(PNG):
        return PNG + b"".join(png_chunks(content))
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        body = b"WEBP" + b"".join(webp_chunks(content))
        return b"RIFF" + len(body).to_bytes(4, "little") + body
    return None


def png_chunks(content: bytes) -> Iterator[bytes]:
    """The chunks of a PNG that its picture is made of."""
    place = len(PNG)
    while place + 8 <= len(content):
        length, kind = int.from_bytes(content[place : place + 4]), content[place + 4 : place + 8]
        stop = place + length + 12
        if kind not in (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP"):
            yield content[place:stop]
        place = stop


def webp_chunks(content: bytes) -> Iterator[bytes]:
    """The chunks of a WebP that its picture is made of."""
    place = 12
    while place + 8 <= len(content):
        kind, length = content[place : place + 4], content[place + 4 : place + 8]
        stop = place + 8 + (int.from_bytes(length, "little") + 1) // 2 * 2
        if kind not in (b"EXIF", b"XMP ", b"ICCP"):
            yield content[place:stop]
        place = stop


def check_size(image: Image.Image):
    """Reject images that are too large to decode; up to twice its limit, Pillow only warns.

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
    """Scale grey of more than 8 bits, or of floats, to 8 bits; Pillow's own conversion would clip.

    The scale follows from the range of the values: up to 255, 4095 (12 bits) or 65535; up to 1 for
    floats; and the image's own minimum and maximum for anything else.
    """
    if image.mode[0] not in "IF":
        return image
    values = np.asarray(image).astype(np.float64)
    finite = values[np.isfinite(values)]
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    limits = (1, 255, 4095, 65535) if image.mode == "F" else (255, 4095, 65535)
    limit = next((limit for limit in limits if low >= 0 and high <= limit), None)
    low, high = (0, limit) if limit else (low, max(high, low + 1e-9))
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) * (255 / (high - low))
    return Image.fromarray(scaled.round().clip(0, 255).astype(np.uint8))
