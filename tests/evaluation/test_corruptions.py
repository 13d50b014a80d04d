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
def test_each_is_worse_with_its_severity_and_the_same_again(name, picture):
    versions = [corrupt(picture, name, severity, seed=0, row=5) for severity in SEVERITIES]
    errors = [(version.float() - picture.float()).square().mean().item() for version in versions]
    assert errors == sorted(errors)
    assert errors[0] > 0
    assert all(version.dtype == torch.uint8 for version in versions)
    again = [corrupt(picture, name, severity, seed=0, row=5) for severity in SEVERITIES]
    assert all(torch.equal(a, b) for a, b in zip(versions, again, strict=True))


@pytest.mark.parametrize("name", ["gaussian_noise", "shot_noise"])
def test_noise_is_each_rows_own(name, picture):
    one, other = (corrupt(picture, name, 3, seed=0, row=row) for row in (1, 2))
    assert not torch.equal(one, other)


def test_noise_has_its_deviation():
    grey = torch.full((3, 128, 128), 128, dtype=torch.uint8)
    # Poisson: a light of 0.5 in quanta of 1 / 60 deviates by sqrt(0.5 / 60).
    for name, expected in {"gaussian_noise": 0.08, "shot_noise": (0.5 / 60) ** 0.5}.items():
        noisy = corrupt(grey, name, 1, seed=0, row=0).double() / 255
        assert noisy.std().item() == pytest.approx(expected, rel=0.03)
        assert noisy.mean().item() == pytest.approx(0.5, abs=0.01)


def test_brightness_adds_to_the_value_of_hsv(picture):
    bright = corrupt(picture, "brightness", 2, seed=0, row=0)
    for x, y in [(0, 0), (10, 50), (33, 20), (63, 63)]:
        hue, saturation, value = colorsys.rgb_to_hsv(*(picture[:, x, y] / 255).tolist())
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2))
        np.testing.assert_allclose(bright[:, x, y] / 255, expected, atol=0.6 / 255)
    black = torch.zeros(3, 4, 4, dtype=torch.uint8)
    assert corrupt(black, "brightness", 2, seed=0, row=0).unique().tolist() == [51]


def test_contrast_keeps_the_mean(picture):
    flat = corrupt(picture, "contrast", 5, seed=0, row=0).float()
    torch.testing.assert_close(
        flat.mean(dim=(1, 2)), picture.float().mean(dim=(1, 2)), atol=0.5, rtol=0
    )
    spread = flat.std(dim=(1, 2)) / picture.float().std(dim=(1, 2))
    torch.testing.assert_close(spread, torch.full((3,), 0.05), atol=0.01, rtol=0)


def test_blur_keeps_what_is_even_and_spreads_a_point():
    even = torch.full((3, 56, 56), 77, dtype=torch.uint8)
    assert torch.equal(corrupt(even, "gaussian_blur", 5, seed=0, row=0), even)
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
