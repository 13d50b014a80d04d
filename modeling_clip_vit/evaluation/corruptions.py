"""Common corruptions of images, after ImageNet-C (Hendrycks and Dietterich, 2019, section 3).

Shape legend: `S` side in pixels.
"""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as transforms

#: The side that ImageNet-C gives lengths in pixels for.
REFERENCE_SIDE = 224


def gaussian_noise(image: torch.Tensor, level: float, rng: np.random.Generator) -> torch.Tensor:
    """Noise of one deviation everywhere, as of a sensor in poor light."""
    return image + level * torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))


def shot_noise(image: torch.Tensor, level: float, rng: np.random.Generator) -> torch.Tensor:
    """Light that comes in quanta: white is `level` of them."""
    return torch.from_numpy(rng.poisson(image.numpy() * level) / level).float()


def gaussian_blur(image: torch.Tensor, level: float, rng: np.random.Generator) -> torch.Tensor:
    """Defocus: `level` is the standard deviation in pixels, for an image with sides of 224."""
    side = min(image.shape[-2:])
    sigma = level * side / REFERENCE_SIDE
    # Reflection at the edge takes less than a side.
    width = min(2 * round(4 * sigma) + 1, 2 * (side // 2) - 1)
    return transforms.gaussian_blur(image, [width, width], [sigma, sigma])


def contrast(image: torch.Tensor, level: float, rng: np.random.Generator) -> torch.Tensor:
    """Each channel's distance from its mean, times `level`."""
    mean = image.mean(dim=(1, 2), keepdim=True)
    return (image - mean) * level + mean


def brightness(image: torch.Tensor, level: float, rng: np.random.Generator) -> torch.Tensor:
    """`level` more of HSV's value; hue and saturation stay, and black becomes grey."""
    value = image.amax(dim=0, keepdim=True)
    brighter = (value + level).clamp(max=1)
    return torch.where(value > 0, image * brighter / value.clamp(min=1e-6), brighter)


def jpeg_compression(image: torch.Tensor, level: float, rng: np.random.Generator) -> torch.Tensor:
    """JPEG of this quality."""
    buffer = io.BytesIO()
    transforms.to_pil_image(to_bytes(image)).save(buffer, "JPEG", quality=int(level))
    return transforms.pil_to_tensor(Image.open(buffer)).float() / 255


def pixelate(image: torch.Tensor, level: float, rng: np.random.Generator) -> torch.Tensor:
    """Shrink to `level` of the side, and enlarge again."""
    height, width = (max(1, int(side * level)) for side in image.shape[-2:])
    whole = transforms.to_pil_image(to_bytes(image))
    small = whole.resize((width, height), Image.Resampling.BOX)
    return transforms.pil_to_tensor(small.resize(whole.size, Image.Resampling.BOX)).float() / 255


#: Changes an image from 0 to 1 at a level, with a random generator for its noise.
Change = Callable[[torch.Tensor, float, np.random.Generator], torch.Tensor]
#: Name -> what it does to an image from 0 to 1, and its levels at severities 1 to 5: those of
#: ImageNet-C's code.
CORRUPTIONS: dict[str, tuple[Change, tuple[float, ...]]] = {
    "gaussian_noise": (gaussian_noise, (0.08, 0.12, 0.18, 0.26, 0.38)),
    "shot_noise": (shot_noise, (60, 25, 12, 5, 3)),
    "gaussian_blur": (gaussian_blur, (1, 2, 3, 4, 6)),
    "contrast": (contrast, (0.4, 0.3, 0.2, 0.1, 0.05)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "jpeg_compression": (jpeg_compression, (25, 18, 15, 10, 7)),
    "pixelate": (pixelate, (0.6, 0.5, 0.4, 0.3, 0.25)),
}
SEVERITIES = (1, 2, 3, 4, 5)


def to_bytes(image: torch.Tensor) -> torch.Tensor:
    """From 0 to 1, to uint8."""
    return image.clamp(0, 1).mul(255).round().to(torch.uint8)


def corrupt(pixels: torch.Tensor, name: str, severity: int, seed: int, row: int) -> torch.Tensor:
    """Corrupt an image.

    Args:
        pixels: uint8, (3, height, width).
        name: a key of `CORRUPTIONS`.
        severity: from 1 to 5.
        seed, row: of its noise, which is the same wherever the row is read.

    Returns:
        uint8, (3, height, width).
    """
    change, levels = CORRUPTIONS[name]
    rng = np.random.default_rng((seed, row))
    return to_bytes(change(pixels.float() / 255, levels[severity - 1], rng))


@dataclass(frozen=True)
class Corruption:
    """One corruption at one severity, or the square crop as it is.

    Args:
        name: a key of `CORRUPTIONS`; None for no corruption.
        severity: from 1 to 5.
        seed: seed of the noise.
    """

    name: str | None
    severity: int
    seed: int

    def __call__(self, pixels: torch.Tensor, row: int) -> torch.Tensor:
        """The corrupted image, uint8 (3, S, S)."""
        if self.name is None:
            return pixels
        return corrupt(pixels, self.name, self.severity, self.seed, row)
