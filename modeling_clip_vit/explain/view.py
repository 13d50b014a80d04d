"""Which part of a picture a processor keeps."""

import numpy as np
from PIL import Image

from ..inference.loading import Encoder

#: Longest side of the pictures that the processor is tried on.
TRIAL_SIDE = 512


def seen_box(encoder: Encoder, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The part of a picture that the model sees, in pixels: left, top, right, bottom.

    Processors resize, crop and pad in many ways. This one is given a picture whose red and green
    say where a pixel is, and what it makes of them is read. A part outside of the picture is
    padding.

    Args:
        encoder: whose processor prepares pictures.
        size: width and height of the picture.
    """
    factor = min(1.0, TRIAL_SIDE / max(size))
    width, height = (max(1, round(side * factor)) for side in size)
    process = encoder.processor.image_processor
    black, ramps = (
        np.asarray(process(Image.fromarray(pixels), return_tensors="np")["pixel_values"][0])
        for pixels in (np.zeros((height, width, 3), np.uint8), place_ramps(width, height))
    )
    if ramps.ndim != 3:  # patches of the whole picture
        return (0, 0, *size)
    white = process(Image.new("RGB", (width, height), "white"), return_tensors="np")
    scale = np.asarray(white["pixel_values"][0]) - black
    places = (ramps - black) / np.where(scale == 0, 1, scale)
    left, right = ends_of_line(places[0].mean(axis=0))
    top, bottom = ends_of_line(places[1].mean(axis=1))
    return (
        round(left * size[0]),
        round(top * size[1]),
        round(right * size[0]),
        round(bottom * size[1]),
    )


def place_ramps(width: int, height: int) -> np.ndarray:
    """Pixels whose red grows from left to right and whose green from top to bottom: uint8."""
    ramps = np.zeros((height, width, 3), np.uint8)
    ramps[..., 0] = ((np.arange(width) + 0.5) / width * 255).round()
    ramps[..., 1] = (((np.arange(height) + 0.5) / height * 255).round())[:, None]
    return ramps


def ends_of_line(places: np.ndarray) -> tuple[float, float]:
    """Where a line of pixels begins and ends in the picture, as shares of its side.

    Args:
        places: of the centre of each pixel in the picture, as a share of its side.
    """
    pixels = np.arange(len(places))
    # Not the ends: there, resizing and padding flatten the ramp.
    inner = (places > 0.1) & (places < 0.9)
    if inner.sum() < 2:
        return 0.0, 1.0
    slope, offset = np.polyfit(pixels[inner], places[inner], 1)
    return offset - slope / 2, offset + slope * (len(places) - 0.5)
