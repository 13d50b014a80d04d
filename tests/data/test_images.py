"""Decoding real files of every awkward kind."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_clip_vit.data.images import BadImageError, decode_image, to_pixels


def encode(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_transparent_pixels_become_white():
    image = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 4, 8))
    pixels = np.array(decode_image(encode(image)))
    assert (pixels[:, :4] == (0, 0, 255)).all()
    assert (pixels[:, 4:] == 255).all()


def test_a_palette_with_a_transparent_colour_becomes_white_there():
    image = Image.new("P", (8, 8), 0)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.paste(1, (0, 0, 4, 8))
    pixels = np.array(decode_image(encode(image, transparency=0)))
    assert (pixels[:, :4] == (0, 255, 0)).all()
    assert (pixels[:, 4:] == 255).all()


def test_the_exif_orientation_is_applied():
    image = Image.new("RGB", (8, 16), "white")
    image.paste("black", (0, 0, 8, 8))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    upright = np.array(decode_image(encode(image, "PNG", exif=exif)))
    assert (upright[:8] == 255).all()
    assert (upright[8:] == 0).all()


@pytest.mark.parametrize("mode", ["L", "LA", "CMYK", "1", "I;16", "RGBA", "P"])
def test_every_mode_becomes_rgb(mode):
    image = Image.new("L", (8, 8), 200)
    image = image.convert(mode) if mode != "I;16" else Image.new("I;16", (8, 8), 60000)
    kind = "TIFF" if mode in ("CMYK", "I;16") else "PNG"
    assert decode_image(encode(image, kind)).mode == "RGB"


@pytest.mark.parametrize(
    "broken",
    [b"", b"not an image", encode(Image.new("RGB", (64, 64), "red"), "JPEG")[:200], None, {}],
)
def test_what_cannot_be_decoded_is_a_bad_image(broken):
    with pytest.raises(BadImageError):
        decode_image(broken)


def test_pixels_keep_the_middle_of_a_wide_picture():
    image = Image.new("RGB", (96, 32), "red")
    image.paste("blue", (32, 0, 64, 32))
    pixels = to_pixels(image, 32)
    assert pixels.shape == (3, 32, 32)
    assert pixels.dtype == torch.uint8
    assert (pixels[2, :, 2:-2] == 255).all()


def test_pixels_of_the_right_size_are_untouched():
    values = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    pixels = to_pixels(Image.fromarray(values), 32)
    assert (pixels.permute(1, 2, 0).numpy() == values).all()
