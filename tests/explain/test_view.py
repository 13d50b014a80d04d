"""Which part of a picture the model sees, by processors that resize, crop and pad."""

import pytest
from PIL import Image
from transformers import CLIPImageProcessor, CLIPProcessor, SiglipImageProcessor

from modeling_clip_vit.explain.view import seen_box
from modeling_clip_vit.inference.loading import TorchEncoder
from tests.support.matches import noise


def box(image_processor, tokenizer, size):
    return seen_box(TorchEncoder(None, CLIPProcessor(image_processor, tokenizer)), size)


@pytest.mark.parametrize("size", [(400, 200), (200, 300), (3000, 1500), (40, 40)])
def test_a_centre_crop_leaves_the_middle(processor, size):
    crop = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    width, height = size
    side = min(size)
    expected = (
        (width - side) // 2,
        (height - side) // 2,
        (width + side) // 2,
        (height + side) // 2,
    )
    assert box(crop, processor.tokenizer, size) == pytest.approx(expected, abs=side / 50)


def test_a_crop_after_a_larger_size_leaves_less(processor):
    crop = CLIPImageProcessor(size={"shortest_edge": 40}, crop_size={"height": 32, "width": 32})
    assert box(crop, processor.tokenizer, (400, 400)) == pytest.approx((40, 40, 360, 360), abs=8)


def test_a_squashed_picture_is_seen_whole(processor):
    squash = SiglipImageProcessor(size={"height": 32, "width": 32})
    assert box(squash, processor.tokenizer, (400, 200)) == pytest.approx((0, 0, 400, 200), abs=8)


def test_the_box_is_what_the_processor_keeps(processor):
    """A picture cut to its box is prepared as the whole picture is."""
    image = noise(9, 6).resize((288, 192), Image.Resampling.BICUBIC)
    encoder = TorchEncoder(None, processor)
    whole, cut = (
        processor.image_processor(one, return_tensors="pt")["pixel_values"]
        for one in (image, image.crop(seen_box(encoder, image.size)))
    )
    assert (whole - cut).abs().mean() < 0.05
