"""JPEGs decoded straight into an array, where simplejpeg is installed.

simplejpeg and Pillow both decode with libjpeg-turbo, and their pixels are equal. Those of Pillow go
through an image of four bytes a pixel and two more copies on their way to a tensor.

Shape legend: `H` height, `W` width in pixels.
"""

from collections.abc import Callable

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin

try:
    import simplejpeg
except ImportError:  # there is no wheel for this system
    simplejpeg = None

#: Value of the EXIF tag -> what makes an image (H, W, 3) upright.
TURNS: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: image[::-1].transpose(1, 0, 2),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: image[:, ::-1].transpose(1, 0, 2),
}


def decode_jpeg(image: Image.Image) -> np.ndarray | None:
    """The pixels of a JPEG, upright: uint8 (H, W, 3).

    Args:
        image: opened by Pillow and not decoded yet; after its method `draft`, of the smaller size.

    Returns:
        None for everything that Pillow should decode itself: other formats, other colours than RGB
        and grey, and damaged files, of which Pillow says what is wrong.
    """
    if simplejpeg is None or not isinstance(image, JpegImagePlugin.JpegImageFile):
        return None
    if image.mode not in ("RGB", "L") or not image.tile or image.tell():
        return None  # loaded already, or at another of several pictures
    assert image.fp is not None
    # At full size nothing is asked for: seven eighths of five pixels are five pixels, too.
    width, height = image.size if image.decoderconfig else (0, 0)
    image.fp.seek(0)
    try:
        pixels = simplejpeg.decode_jpeg(
            image.fp.read(),
            "RGB",
            fastdct=False,
            fastupsample=False,
            min_height=height,
            min_width=width,
        )
    except ValueError:
        return None
    if pixels.shape[:2] != (image.height, image.width):
        return None
    turn = TURNS.get(read_orientation(image))
    return pixels if turn is None else np.ascontiguousarray(turn(pixels))


def read_orientation(image: Image.Image) -> int:
    """How an image is turned by its EXIF tag; 1, upright, if it cannot be read."""
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # from a TIFF reader, which expects nothing but TIFF
        return 1
