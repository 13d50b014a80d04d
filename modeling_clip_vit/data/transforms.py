"""Augment a batch of images as one tensor, each image by its own random numbers.

The augmentation is a pure function of pixels and uniform noise: the code that draws the noise for a
sample decides what happens to it, on any device, in any batch, in any worker. What is done to one
image at a time, before it comes into a batch, is in `policies.py`.

Shape legend: `B` batch, `S` side in pixels.
"""

import math
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, get_args

import torch
from torch.nn import functional as F  # noqa: N812

from .errors import check_option

#: Uniform numbers that one image needs.
NOISE_SIZE = 14

Policy = Literal["none", "randaugment", "autoaugment", "trivialaugment"]
SHARES = ("shift", "shear", "brightness", "contrast", "saturation", "erase_probability")
AMOUNTS = ("rotation", "zoom", "hue")


@dataclass
class AugmentOptions:
    """How strongly images are augmented; 0 disables a part.

    Args:
        rotation: maximum rotation in degrees, in either direction.
        zoom: maximum change of scale: 0.25 scales by 1/1.25 to 1.25.
        shift: maximum shift, as a share of the side.
        shear: maximum shear, as a share of the side.
        brightness: maximum change of brightness, as a share of white.
        contrast: maximum change of contrast: 0.3 multiplies by 0.7 to 1.3.
        saturation: maximum change of saturation: 1 ranges from grey to doubled.
        hue: maximum rotation of the hue in degrees, in either direction.
        erase_probability: probability of erasing a random rectangle.
        flip: mirror half of the images; leave it off where left and right have a meaning.
        crop_scale: smallest and largest share of the image area for random crops (Szegedy et al.,
            2015, section 6), such as `[0.5, 1]`; empty uses the centre crop.
        crop_ratio: smallest and largest aspect ratio of the crop, width over height.
        policy: augmentation policy to apply to each image: `randaugment` (Cubuk et al., 2020),
            `autoaugment` (Cubuk et al., 2019, as learned on ImageNet), `trivialaugment` (Müller and
            Hutter, 2021) or `none`. They change colours too.
        policy_num_ops: number of operations per image, for randaugment.
        policy_magnitude: strength of the operations, from 0 to 30, for randaugment.
    """

    rotation: float = 0.0
    zoom: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0
    erase_probability: float = 0.0
    flip: bool = False
    crop_scale: list[float] = field(default_factory=list)
    crop_ratio: list[float] = field(default_factory=lambda: [3 / 4, 4 / 3])
    policy: Policy = "none"
    policy_num_ops: int = 2
    policy_magnitude: int = 9

    def __post_init__(self):
        for name in SHARES:
            check_option(0 <= getattr(self, name) <= 1, self, name, "from 0 to 1")
        for name in AMOUNTS:
            check_option(getattr(self, name) >= 0, self, name, "at least 0")
        scale, ratio = self.crop_scale, self.crop_ratio
        is_scale = len(scale) == 2 and 0 < scale[0] <= scale[1] <= 1
        check_option(
            not scale or is_scale,
            self,
            "crop_scale",
            "empty, or a smallest and a largest share of the area, above 0 and at most 1",
        )
        is_ratio = len(ratio) == 2 and 0 < ratio[0] <= ratio[1]
        check_option(is_ratio, self, "crop_ratio", "a smallest and a largest number above 0")
        allowed = get_args(Policy)
        check_option(self.policy in allowed, self, "policy", f"one of {', '.join(allowed)}")
        check_option(self.policy_num_ops >= 1, self, "policy_num_ops", "at least 1")
        is_magnitude = 0 <= self.policy_magnitude <= 30
        check_option(is_magnitude, self, "policy_magnitude", "from 0 to 30")

    @property
    def is_on(self) -> bool:
        """Whether anything is ever changed."""
        amounts = [getattr(self, name) for name in (*SHARES, *AMOUNTS)]
        return any(amounts) or self.flip or bool(self.crop_scale) or self.policy != "none"

    @property
    def draws_globally(self) -> bool:
        """Whether torchvision draws from torch's global random numbers, one thread at a time."""
        return bool(self.crop_scale) or self.policy != "none"


def augment(pixels: torch.Tensor, noise: torch.Tensor, options: AugmentOptions) -> torch.Tensor:
    """Vary images.

    Args:
        pixels: uint8, (B, 3, height, width).
        noise: uniform numbers from 0 to 1, (B, NOISE_SIZE).
        options: how strongly.

    Returns:
        Pixels from 0 to 1, float32, (B, 3, height, width).
    """
    images = pixels.float().div_(255)
    images = move(images, noise[:, :6], options)
    images = recolour(images, noise[:, 6:10], options)
    return erase(images, noise[:, 10:], options)


def move(images: torch.Tensor, noise: torch.Tensor, options: AugmentOptions) -> torch.Tensor:
    """Rotate, zoom, shear, shift and mirror by one affine map (B, 2, 3); the margin is white."""
    if not any((options.rotation, options.zoom, options.shear, options.shift)):
        # Sampling a grid costs as much as decoding, and would only give the picture back.
        is_mirrored = (noise[:, 5] < 0.5)[:, None, None, None]
        return torch.where(is_mirrored, images.flip(-1), images) if options.flip else images
    signed = 2 * noise - 1
    aspect = images.shape[-1] / images.shape[-2]  # places are from -1 to 1 on either axis
    angle = signed[:, 0] * math.radians(options.rotation)
    scale = (1 + options.zoom) ** signed[:, 1]
    shear = signed[:, 2] * options.shear
    mirror = torch.where(noise[:, 5] < 0.5, -1.0, 1.0) if options.flip else torch.ones_like(angle)
    cos, sin = angle.cos() / scale, angle.sin() / scale
    right, down = (2 * options.shift * signed[:, 3:5]).unbind(dim=1)
    x = torch.stack((cos * mirror, (shear * cos - sin) / aspect, right), dim=1)
    y = torch.stack((sin * mirror * aspect, shear * sin + cos, down), dim=1)
    grid = F.affine_grid(torch.stack((x, y), dim=1), list(images.shape), align_corners=False)
    # Outside of the picture grid_sample gives 0: shifting white to 0 and back makes that white.
    return F.grid_sample(images - 1, grid, mode="bilinear", align_corners=False) + 1


def recolour(images: torch.Tensor, noise: torch.Tensor, options: AugmentOptions) -> torch.Tensor:
    """Turn the hue and change saturation, contrast and brightness by one affine map of RGB."""
    if not any((options.hue, options.saturation, options.contrast, options.brightness)):
        return images
    signed = 2 * noise - 1
    contrast = 1 + options.contrast * signed[:, 1]
    turn = hue_rotation(signed[:, 3] * math.radians(options.hue))
    matrix = saturation(1 + options.saturation * signed[:, 2]) @ turn
    matrix = matrix * contrast[:, None, None]
    offset = 0.5 * (1 - contrast) + options.brightness * signed[:, 0]
    flat = torch.baddbmm(offset[:, None, None], matrix, images.flatten(2))
    return flat.clamp_(0, 1).view_as(images)


@cache
def constant(numbers: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """Numbers on a device, copied once: every copy would wait for all that a GPU has to do."""
    return torch.tensor(numbers, device=device)


def saturation(factor: torch.Tensor) -> torch.Tensor:
    """Colour matrices (B, 3, 3) between grey (factor 0) and the picture (1), and beyond."""
    luma = constant((0.299, 0.587, 0.114), factor.device).expand(3, 3)
    factor = factor[:, None, None]
    return factor * torch.eye(3, device=factor.device) + (1 - factor) * luma


def hue_rotation(angle: torch.Tensor) -> torch.Tensor:
    """Rotations (B, 3, 3) about the grey axis of RGB (Rodrigues' formula)."""
    third, device = 1 / 3, angle.device
    cross = math.sqrt(third) * constant((0.0, -1, 1, 1, 0, -1, -1, 1, 0), device).view(3, 3)
    cos, sin = angle.cos()[:, None, None], angle.sin()[:, None, None]
    return cos * torch.eye(3, device=device) + (1 - cos) * third + sin * cross


def erase(images: torch.Tensor, noise: torch.Tensor, options: AugmentOptions) -> torch.Tensor:
    """Paint a rectangle grey in some images (random erasing; Zhong et al., 2020, section 3)."""
    if options.erase_probability == 0:
        return images
    # Noise that picks the images is stretched again to give the height of the rectangle.
    chosen = noise[:, 0] < options.erase_probability
    height = 0.15 + 0.3 * (noise[:, 0] / options.erase_probability).clamp(max=1)
    width = 0.15 + 0.3 * noise[:, 1]
    row, column = (torch.arange(n, device=images.device) / n for n in images.shape[-2:])
    in_rows = between(row, noise[:, 2] * (1 - height), height)
    in_columns = between(column, noise[:, 3] * (1 - width), width)
    inside = chosen[:, None, None] & in_rows[:, :, None] & in_columns[:, None, :]
    return images.masked_fill(inside[:, None], 0.5)


def between(place: torch.Tensor, start: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Which places lie from start to start + length: (B, S)."""
    return (place >= start[:, None]) & (place < (start + length)[:, None])


def normalize(
    images: torch.Tensor, image_mean: list[float], image_std: list[float]
) -> torch.Tensor:
    """`(images - mean) / std` for each channel, images (B, 3, S, S) from 0 to 1."""
    mean, std = (constant(tuple(numbers), images.device) for numbers in (image_mean, image_std))
    return (images - mean[:, None, None]).div_(std[:, None, None])
