"""Corruptions of images do what their names say."""

import colorsys

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_clip_vit.evaluation.corruptions import CORRUPTIONS, SEVERITIES, corrupt


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    """Soft shapes of every colour with a grain, uint8, (3, 64, 64)."""
    rng = np.random.default_rng(0)
    shapes = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8))
    pixels = np.array(shapes.resize((64, 64), Image.Resampling.BICUBIC)).astype(float)
    pixels += rng.normal(0, 20, pixels.shape)
    return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_each_is_worse_with_its_severity(name, picture):
    versions = [corrupt(picture, name, severity, seed=0, row=5) for severity in SEVERITIES]
    errors = [(version.float() - picture.float()).square().mean().item() for version in versions]
    assert 0 < errors[0] < errors[-1]
    assert errors == sorted(errors)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
def test_each_is_the_same_again(name, picture):
    one, other = (corrupt(picture, name, 3, seed=0, row=5) for _ in range(2))
    assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise"])
def test_noise_is_each_rows_own(name, picture):
    one, other = (corrupt(picture, name, 3, seed=0, row=row) for row in (1, 2))
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("name", "deviation"),
    # Poisson: a light of 0.5 in quanta of 1 / 60 deviates by sqrt(0.5 / 60).
    [("gaussian_noise", 0.08), ("shot_noise", (0.5 / 60) ** 0.5)],
)
def test_noise_has_its_deviation(name, deviation):
    grey = torch.full((3, 128, 128), 128, dtype=torch.uint8)
    noisy = corrupt(grey, name, 1, seed=0, row=0).double() / 255
    assert noisy.std().item() == pytest.approx(deviation, rel=0.03)
    assert noisy.mean().item() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("place", [(0, 0), (10, 50), (33, 20), (63, 63)])
def test_brightness_adds_to_the_value_of_hsv(place, picture):
    bright = corrupt(picture, "brightness", 2, seed=0, row=0)
    pixel, brighter = (image[:, place[0], place[1]] / 255 for image in (picture, bright))
    hue, saturation, value = colorsys.rgb_to_hsv(*pixel.tolist())
    expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2))
    np.testing.assert_allclose(brighter, expected, atol=0.6 / 255)


def test_brightness_makes_black_grey():
    black = torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert corrupt(black, "brightness", 2, seed=0, row=0).unique().tolist() == [51]


def test_contrast_keeps_the_mean(picture):
    flat = corrupt(picture, "contrast", 5, seed=0, row=0).float()
    expected = picture.float().mean(dim=(1, 2))
    torch.testing.assert_close(flat.mean(dim=(1, 2)), expected, atol=0.5, rtol=0)


def test_contrast_multiplies_the_deviation(picture):
    flat = corrupt(picture, "contrast", 5, seed=0, row=0).float()
    ratio = flat.std(dim=(1, 2)) / picture.float().std(dim=(1, 2))
    torch.testing.assert_close(ratio, torch.full((3,), 0.05), atol=0.01, rtol=0)


def test_blur_keeps_what_is_even():
    even = torch.full((3, 56, 56), 77, dtype=torch.uint8)
    assert torch.equal(corrupt(even, "gaussian_blur", 5, seed=0, row=0), even)


def test_blur_spreads_a_point():
    point = torch.zeros(3, 56, 56, dtype=torch.uint8)
    point[:, 28, 28] = 255
    # At a quarter of the reference side a deviation of 4 is one of 1: 1 / (2 pi) in the middle.
    middle = corrupt(point, "gaussian_blur", 4, seed=0, row=0)[0, 28, 28].item()
    assert middle == pytest.approx(255 / (2 * np.pi), abs=1)


def test_pixelate_makes_squares_of_their_mean(picture):
    pixelated = corrupt(picture, "pixelate", 5, seed=0, row=0).float()
    means = torch.nn.functional.avg_pool2d(picture.float(), 4)
    squares = means.repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    torch.testing.assert_close(pixelated, squares, atol=1, rtol=0)
