"""Augment one image at a time, before it comes into a batch: random crops and learned policies.

Both are torchvision's. They draw from torch's global random numbers, so they run on a seed of the
sample's own, and leave the global ones as they were: dropout goes on from there.

Shape legend: `S` side in pixels.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from PIL import Image
from torchvision.transforms import v2

from .images import resize_part, to_pixels, to_tensor
from .transforms import AugmentOptions

#: Fill value for the area outside the image, the same as in the batch augmentation.
WHITE = 255


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch draw from a seed on the CPU, and put its random numbers back afterwards."""
    generator = torch.default_generator  # torch.manual_seed would seed the GPU's as well
    state = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(state)


def build_policy(options: AugmentOptions) -> v2.Transform | None:
    """The policy that the options name; None for none."""
    if options.policy == "randaugment":
        return v2.RandAugment(options.policy_num_ops, options.policy_magnitude, fill=WHITE)
    if options.policy == "autoaugment":
        return v2.AutoAugment(fill=WHITE)
    return v2.TrivialAugmentWide(fill=WHITE) if options.policy == "trivialaugment" else None


class SampleAugment:
    """Cuts one image to size, and varies it, as a function of the image and a seed.

    Args:
        options: how.
        size: side S of the pixels.
    """

    def __init__(self, options: AugmentOptions, size: int):
        self.options, self.size = options, size
        self.scale, self.ratio = options.crop_scale, options.crop_ratio
        self.crop = v2.RandomResizedCrop(size, self.scale, self.ratio) if self.scale else None
        self.policy = build_policy(options)

    @property
    def least_area(self) -> int:
        """Number of pixels that an image needs so that not even its smallest crop is enlarged; 0
        without crops, where the length of its shorter side says it all.
        """
        if not self.scale:
            return 0
        narrowest = min(self.ratio[0], 1 / self.ratio[1], 1)
        return math.ceil(self.size**2 / (self.scale[0] * narrowest))

    def __call__(self, image: Image.Image | torch.Tensor, seed: int) -> torch.Tensor:
        """Pixels, uint8 (3, S, S), of an image of any size or of pixels of that one."""
        if self.crop is None and self.policy is None:
            return self.cut(image)
        with seeded(seed):
            pixels = self.cut(image)
            if self.policy is None:
                return pixels
            # Pillow changes an image of 224 pixels in a third of the time that tensors take.
            pil_image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
            return to_tensor(self.policy(pil_image))

    def cut(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """A random part, or the centre."""
        if self.crop is None:
            return to_pixels(image, self.size)
        pixels = image if isinstance(image, torch.Tensor) else to_tensor(image)
        part = self.crop.make_params([pixels])
        place = part["top"], part["left"], part["height"], part["width"]
        return resize_part(pixels, place, self.size)
