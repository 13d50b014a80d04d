"""Pictures that a peer's own transform and a processor of Transformers are compared on."""

import io
from typing import Any

import numpy as np
import torch
from PIL import Image

from .weights import ConversionError

#: Largest difference of a pixel, of 255 levels: Transformers resizes with torchvision, and
#: open_clip and timm with Pillow, which round in different places.
LEVELS = 6


def make_pictures(size: Any) -> list[Image.Image]:
    """Pictures as a file gives them: wide, tall, square and small, one of them of grey levels.

    The crop of their middle has whole margins, which the libraries round differently.
    """
    side = size if isinstance(size, int) else size[0]
    short = side + side // 3
    generator = np.random.default_rng(0)
    pictures: list[Image.Image] = []
    for width, height, mode in (
        (3 * short, short, "RGB"),
        (short, 3 * short, "L"),
        (short, short, "RGB"),
        (side // 2, side // 2, "RGB"),
    ):
        coarse = generator.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.convert(mode).save(file, format="PNG")
        pictures.append(Image.open(file))
    return pictures


def pixel_levels(expected: torch.Tensor, image_processor: Any, image: Image.Image) -> float:
    """The largest difference of a pixel, of 255 levels; infinite where the sizes differ."""
    return levels_at(expected, image_processor, image, ((0, 0),))


def shifted_levels(expected: torch.Tensor, image_processor: Any, image: Image.Image) -> float:
    """The same, where a crop may begin one pixel earlier: libraries halve odd margins otherwise."""
    return levels_at(expected, image_processor, image, ((0, 0), (0, 1), (1, 0), (1, 1)))


def levels_at(
    expected: torch.Tensor, image_processor: Any, image: Image.Image, shifts: Any
) -> float:
    """The least over some shifts, in rows and columns, of the largest difference of a pixel."""
    values = image_processor(image.convert("RGB"), return_tensors="pt").pixel_values[0]
    if values.shape != expected.shape:
        return float("inf")
    std = torch.tensor(image_processor.image_std)[:, None, None]
    height, width = expected.shape[-2:]
    return min(
        float(
            ((values[:, y:, x:] - expected[:, : height - y, : width - x]) * std * 255).abs().max()
        )
        for y, x in shifts
    )


def check_levels(levels: float, peer: str) -> float:
    """The largest difference of a pixel, of 255 levels, if it is rounding.

    Raises:
        ConversionError: it is more.
    """
    if not levels <= LEVELS:
        raise ConversionError(
            f"the processor prepares images otherwise than {peer}: pixels differ by {levels:.0f} "
            f"of 255 levels (at most {LEVELS} is rounding)"
        )
    return levels
