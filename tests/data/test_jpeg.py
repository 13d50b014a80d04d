"""JPEGs that simplejpeg decodes: pixels equal to Pillow's, and Pillow where simplejpeg fails."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from modeling_clip_vit.data.decoding import BadImageError, decode_image, reduce_jpeg
from modeling_clip_vit.data.images import decode_pixels
from modeling_clip_vit.data.jpeg import decode_jpeg
from modeling_clip_vit.data.policies import SampleAugment
from modeling_clip_vit.data.transforms import AugmentOptions
from tests.support.pictures import encode

pytest.importorskip("simplejpeg")

KINDS = {
    "4:2:0": {"subsampling": "4:2:0"},
    "4:2:2": {"subsampling": "4:2:2"},
    "4:4:4": {"subsampling": "4:4:4", "quality": 95},
    "progressive": {"progressive": True},
    "coarse": {"quality": 10},
}


def photo(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """Soft shapes under noise."""
    rng = np.random.default_rng(width)
    soft = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((width, height))
    pixels = np.asarray(soft) + rng.integers(-20, 21, (height, width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).convert(mode)


def by_pillow(content: bytes, least_side: int = 0) -> np.ndarray:
    """The pixels that Pillow alone decodes."""
    image = opened(content)
    if least_side:
        reduce_jpeg(image, least_side, 0)
    return np.array(ImageOps.exif_transpose(image).convert("RGB"))


def opened(content: bytes) -> Image.Image:
    """An image that is not decoded yet."""
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("size", [(320, 240), (333, 211), (97, 5), (5, 5)])
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_are_those_of_pillow(kind, size):
    content = encode(photo(*size), "JPEG", **KINDS[kind])
    pixels = decode_jpeg(opened(content))
    assert pixels is not None
    assert np.array_equal(pixels, by_pillow(content))


@pytest.mark.parametrize(
    ("least_side", "size"), [(120, (173, 131)), (50, (87, 66)), (20, (44, 33))]
)
@pytest.mark.parametrize("kind", KINDS)
def test_pixels_of_a_smaller_size_are_those_of_pillow(kind, least_side, size):
    content = encode(photo(345, 262), "JPEG", **KINDS[kind])
    decoded = decode_image(content, least_side)
    assert decoded.size == size
    assert np.array_equal(np.array(decoded), by_pillow(content, least_side))


def test_grey_becomes_rgb():
    content = encode(photo(64, 48, "L"), "JPEG")
    assert np.array_equal(decode_jpeg(opened(content)), by_pillow(content))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_picture_is_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(photo(64, 48), "JPEG", exif=exif)
    assert np.array_equal(decode_jpeg(opened(content)), by_pillow(content))


def test_the_first_picture_of_several_is_decoded():
    content = encode(photo(64, 48), "MPO", save_all=True, append_images=[photo(32, 24)])
    assert np.array_equal(decode_jpeg(opened(content)), by_pillow(content))


@pytest.mark.parametrize(
    "content", [encode(photo(64, 48), "PNG"), encode(photo(64, 48, "CMYK"), "JPEG")]
)
def test_other_formats_and_colours_are_left_to_pillow(content):
    assert decode_jpeg(opened(content)) is None
    assert decode_pixels(content).shape == (3, 48, 64)


def test_a_truncated_jpeg_is_a_bad_image_in_the_words_of_pillow():
    content = encode(photo(320, 240), "JPEG")
    with pytest.raises(BadImageError, match="truncated"):
        decode_pixels(content[: len(content) // 2])


def test_a_damaged_jpeg_that_pillow_reads_has_its_pixels():
    content = encode(photo(320, 240), "JPEG")
    content = content[:-40] + content[-2:]  # the end is missing, but for the mark of it
    assert decode_jpeg(opened(content)) is None
    assert np.array_equal(np.array(decode_image(content)), by_pillow(content))


def test_an_image_that_was_changed_stays_as_it_is():
    image = opened(encode(photo(64, 48), "JPEG"))
    image.paste("red", (0, 0, 64, 48))
    assert (decode_pixels(image) == torch.tensor([255, 0, 0])[:, None, None]).all()


def test_a_file_and_its_bytes_have_equal_pixels(tmp_path):
    path = tmp_path / "picture.jpg"
    path.write_bytes(encode(photo(64, 48), "JPEG"))
    assert torch.equal(decode_pixels(str(path)), decode_pixels(path.read_bytes()))


@pytest.mark.parametrize("options", [{}, {"crop_scale": [0.5, 1]}, {"policy": "randaugment"}])
def test_a_sample_is_the_same_of_pixels_and_of_an_image(options):
    content = encode(photo(200, 150), "JPEG")
    vary = SampleAugment(AugmentOptions(**options), 64)
    assert torch.equal(vary(decode_pixels(content), 3), vary(decode_image(content), 3))
