"""Pictures that tests draw: squares of eight colours with names in two languages."""

import io

import numpy as np
from PIL import Image as PillowImage

COLORS = {
    "red": "红色",
    "green": "绿色",
    "blue": "蓝色",
    "yellow": "黄色",
    "purple": "紫色",
    "orange": "橙色",
    "black": "黑色",
    "brown": "棕色",
}


def draw_picture(color: str, seed: int) -> PillowImage.Image:
    """A square of a colour somewhere on white."""
    rng = np.random.default_rng(seed)
    picture = PillowImage.new("RGB", (32, 32), "white")
    left, top = rng.integers(2, 10, 2)
    picture.paste(PillowImage.new("RGB", (18, 18), color), (int(left), int(top)))
    return picture


def encode(picture: PillowImage.Image, format: str = "PNG", **options) -> bytes:
    """The bytes of a file with a picture; `options` are Pillow's for the format."""
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()
