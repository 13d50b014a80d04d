"""Decoding real files of every awkward kind."""

import io
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_clip_vit.data.decoding import BadImageError, decode_image
from modeling_clip_vit.data.images import to_pixels
from tests.support.pictures import encode


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


@pytest.mark.parametrize("options", [{}, {"quality": 95}])
def test_a_cmyk_jpeg_keeps_its_colours(options):
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = np.array(decode_image(encode(image, "JPEG", **options)))
    assert np.abs(decoded.astype(int) - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bits_of_grey_are_scaled_not_clipped(kind):
    values = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    decoded = np.array(decode_image(encode(Image.fromarray(values), kind)))
    assert (decoded == np.arange(256).reshape(16, 16, 1)).all()


def test_32_bit_numbers_of_8_bits_stay_as_they_are():
    values = np.arange(256, dtype=np.int32).reshape(16, 16)
    decoded = np.array(decode_image(encode(Image.fromarray(values), "TIFF")))
    assert (decoded == np.arange(256).reshape(16, 16, 1)).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_is_taken(kind):
    first, second = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (16, 16), "blue")
    encoded = encode(first, kind, save_all=True, append_images=[second], duration=100)
    assert Image.open(io.BytesIO(encoded)).n_frames == 2
    decoded = np.array(decode_image(encoded)).astype(int)
    assert np.abs(decoded - (255, 0, 0)).max() <= 4


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_a_transparent_image_of_any_kind_stands_on_white(kind):
    image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
    image.paste((0, 200, 0, 255), (0, 0, 8, 16))
    if kind == "PNG":
        image = image.quantize(8)
        assert image.mode == "P"
    options = {"lossless": True} if kind == "WEBP" else {}
    decoded = np.array(decode_image(encode(image, kind, **options))).astype(int)
    assert np.abs(decoded[:, :8] - (0, 200, 0)).max() <= 8
    assert (decoded[:, 8:] == 255).all()


def test_a_photograph_is_turned_upright():
    image = Image.new("RGB", (32, 16), "white")
    image.paste("black", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = 6  # its left side is up
    decoded = decode_image(encode(image, "JPEG", exif=exif, quality=95))
    assert decoded.size == (16, 32)
    pixels = np.array(decoded)
    assert pixels[:12].max() < 20
    assert pixels[20:].min() > 235


@pytest.mark.parametrize("factor", [1.5, 3])
def test_more_pixels_than_pillow_allows_are_a_bad_image(monkeypatch, factor):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", round(3000 / factor))
    with pytest.raises(BadImageError, match="DecompressionBombError"):
        decode_image(encode(Image.new("RGB", (60, 50))))


def test_without_pillows_limit_an_image_has_any_size(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert decode_image(encode(Image.new("RGB", (60, 50)))).size == (60, 50)


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


RAMP = np.linspace(0, 1, 256).reshape(16, 16)


@pytest.mark.parametrize(
    "values",
    [
        (RAMP * 4095).astype(np.uint16),
        (RAMP * 4095 - 1024).astype(np.int32),
        (RAMP * 1e6).astype(np.int32),
        RAMP.astype(np.float32),
        (RAMP * 255).astype(np.float32),
        (RAMP * 3000 - 1000).astype(np.float32),
    ],
    ids=["12 bits", "tomography", "millions", "fractions", "8 bits in floats", "any floats"],
)
def test_numbers_of_any_range_are_scaled_to_8_bits(values):
    decoded = np.array(decode_image(encode(Image.fromarray(values), "TIFF")))[..., 0]
    assert np.abs(decoded - 255 * RAMP).max() <= 1


def test_what_is_no_number_is_black_and_infinity_is_the_end_of_the_range():
    holes = RAMP.astype(np.float32)
    holes[0, :3] = np.nan, np.inf, -np.inf
    decoded = np.array(decode_image(encode(Image.fromarray(holes), "TIFF")))
    assert decoded[0, :3, 0].tolist() == [0, 255, 0]


def png_with(chunk: bytes, content: bytes) -> bytes:
    """A PNG with one more chunk before its picture."""
    whole = encode(Image.new("RGB", (8, 8), "red"))
    body = chunk + content
    more = len(content).to_bytes(4) + body + zlib.crc32(body).to_bytes(4)
    return whole[:33] + more + whole[33:]


def webp_with_broken_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 3
    whole = encode(Image.new("RGB", (8, 8), "red"), "WEBP", lossless=True, exif=exif)
    place = whole.index(b"EXIF") + 8
    return whole[:place] + b"XXXXXXXX" + whole[place + 8 :]


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        png_with(b"zTXt", b"key\0\0" + zlib.compress(b"x" * 3_000_000)),
        png_with(b"eXIf", b"no TIFF at all"),
        png_with(b"iTXt", b"key\0\1\0\0\0" + zlib.compress(b"x" * 3_000_000)),
        webp_with_broken_exif(),
    ],
    ids=["zTXt", "eXIf", "iTXt", "WebP"],
)
def test_broken_metadata_costs_no_picture(content, is_file, tmp_path):
    path = tmp_path / "picture"
    path.write_bytes(content)
    decoded = decode_image(str(path) if is_file else content)
    assert np.array(decoded)[0, 0].tolist() == [255, 0, 0]
