"""Images in their own aspect ratio, as patches, in batches of about as many patches.

An image is resized to the largest grid of patches within a number of them (SigLIP 2: Tschannen et
al., 2025, section 2.4.2, after NaViT: Dehghani et al., 2023); each update draws that number, and
has fewer images where they have more patches.

Shape legend: `B` images, `L` patches of a padded image, `N` patches of an image, `D` numbers of a
patch.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedTokenizerBase

from ..utils.errors import UserError
from .batches import Collator, ConceptBatchSampler, drawn_pixels
from .grids import fit_size
from .images import resize_part, to_tensor
from .map_style import Images, ImageTextSamples
from .policies import SampleAugment
from .rows import Sample, SkippedSample
from .samples import SampleMaker
from .transforms import AugmentOptions, augment

#: Side of the square that stands for an image when a part of it is drawn.
UNIT = 1 << 12


@dataclass
class NativeOptions:
    """How to train on images in their own aspect ratio.

    Args:
        image_seq_lens: most patches of an image: images keep their aspect ratio and are resized to
            the largest grid of patches within it. With several numbers, each update draws one, the
            same for all processes; evaluation and the saved processor use the largest. Empty cuts
            out squares of the model's image size.
        max_image_tokens: most patches of a batch, per process and step: a batch has as many images
            as fit, in place of per_device_train_batch_size; 0 keeps that number of images.
    """

    image_seq_lens: list[int] = field(default_factory=list)
    max_image_tokens: int = 0

    @property
    def is_on(self) -> bool:
        """Whether images keep their aspect ratio."""
        return bool(self.image_seq_lens)

    @property
    def longest(self) -> int:
        """The most patches that an image ever has."""
        return max(self.image_seq_lens)

    def batch_sizes(self, batch_size: int, images_per_concept: int = 1) -> dict[int, int]:
        """Images of a batch for each number of patches.

        Args:
            batch_size: without a budget.
            images_per_concept: a divisor of every batch.
        """
        budget = self.max_image_tokens
        return {
            length: budget // length // images_per_concept * images_per_concept
            if budget
            else batch_size
            for length in sorted(set(self.image_seq_lens))
        }


def fit_image(image: Image.Image, patch_size: int, max_patches: int) -> torch.Tensor:
    """A whole image resized by `fit_size`: uint8, (3, height, width)."""
    pixels = to_tensor(image)
    height, width = pixels.shape[1:]
    size = fit_size(height, width, patch_size, max_patches)
    return resize_part(pixels, (0, 0, height, width), size)


def cut_patches(images: torch.Tensor, patch_size: int) -> torch.Tensor:
    """The patches of images, row by row, each flattened with channels last.

    Args:
        images: (B, channels, height, width).
        patch_size: divides height and width.

    Returns:
        (B, N, patch_size * patch_size * channels), as the model takes them.
    """
    patches = images.unfold(2, patch_size, patch_size).unfold(3, patch_size, patch_size)
    return patches.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def join_patches(patches: torch.Tensor, rows: int, columns: int, patch_size: int) -> torch.Tensor:
    """Undo `cut_patches` for one image: (N or more, D) to (channels, height, width)."""
    grid = patches[: rows * columns].unflatten(-1, (patch_size, patch_size, -1))
    return grid.unflatten(0, (rows, columns)).permute(4, 0, 2, 1, 3).flatten(3).flatten(1, 2)


def pad_patches(
    patches: list[torch.Tensor], spatial_shapes: torch.Tensor, length: int = 0
) -> dict[str, torch.Tensor]:
    """The inputs of the model for the patches of each image, (N, D).

    Args:
        patches: of each image.
        spatial_shapes: rows and columns of each image, (B, 2).
        length: patches to pad to; at least as many as the largest image has.
    """
    padded = pad_sequence(patches, batch_first=True)
    padded = torch.nn.functional.pad(padded, (0, 0, 0, max(0, length - padded.shape[1])))
    mask = torch.arange(padded.shape[1]) < spatial_shapes.prod(dim=1, keepdim=True)
    return {
        "pixel_values": padded,
        "pixel_attention_mask": mask.long(),
        "spatial_shapes": spatial_shapes,
    }


class NativeAugment(SampleAugment):
    """Resizes an image, or a random part of it, to a grid of patches, and varies it.

    Args:
        options: how.
        patch_size: side of a patch in pixels.
        max_patches: most patches of an image.
    """

    def __init__(self, options: AugmentOptions, patch_size: int, max_patches: int):
        super().__init__(options, patch_size)
        self.max_patches = max_patches

    @property
    def least_area(self) -> int:
        """Number of pixels that an image needs so that not even its smallest part is enlarged."""
        share = self.scale[0] if self.scale else 1.0
        return int(self.max_patches * self.size**2 / share)

    def cut(self, image: Image.Image | torch.Tensor) -> torch.Tensor:
        """A random part, or all: uint8 (3, height, width), multiples of the patch."""
        pixels = image if isinstance(image, torch.Tensor) else to_tensor(image)
        height, width = pixels.shape[1:]
        part = (0, 0, height, width) if self.crop is None else self.draw_part(height, width)
        return resize_part(pixels, part, fit_size(*part[2:], self.size, self.max_patches))

    def draw_part(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Top, left, height and width of a random part; `crop_ratio` is relative to the image's."""
        assert self.crop is not None
        square = torch.empty(3, UNIT, UNIT, device="meta")
        drawn = self.crop.make_params([square])
        part_height = max(1, round(drawn["height"] * height / UNIT))
        part_width = max(1, round(drawn["width"] * width / UNIT))
        top = min(round(drawn["top"] * height / UNIT), height - part_height)
        left = min(round(drawn["left"] * width / UNIT), width - part_width)
        return top, left, part_height, part_width


class SizedMakers(dict[int, SampleMaker]):
    """What makes the same samples with at most a number of patches, by that number.

    Args:
        maker: with any number.
    """

    def __init__(self, maker: SampleMaker):
        super().__init__()
        self.maker = maker

    def __missing__(self, max_patches: int) -> SampleMaker:
        varied = self.maker.augment
        assert isinstance(varied, NativeAugment)
        augment = NativeAugment(varied.options, varied.size, max_patches)
        self[max_patches] = self.maker.with_augment(augment)
        return self[max_patches]


class NativeSamples(ImageTextSamples):
    """Rows of a table, varied anew in each epoch; an index is (row, draw, most patches)."""

    def __init__(
        self,
        images: Images,
        maker: SampleMaker,
        concepts: Sequence[int] | None = None,
        fingerprint: str = "",
    ):
        super().__init__(images, maker, concepts, fingerprint)
        self.makers = SizedMakers(maker)

    def __getitem__(self, index: tuple[int, ...]) -> Sample | SkippedSample:
        number, draw, max_patches = index
        return self.makers[max_patches].make(self.find_row(number), draw, number)


class BudgetBatchSampler(ConceptBatchSampler):
    """Batches of concepts, of as many images as their number of patches allows.

    Which numbers of patches an epoch has, and how often, is drawn once, so that all epochs have
    equally many batches; each epoch has them in an order of its own. As many batches as there are
    processes have the same number of patches, one after the other: Accelerate gives each process
    one of them.

    Args:
        concepts: concept number of each usable row.
        sizes: most patches of an image -> images of a batch, a multiple of images_per_concept.
        images_per_concept: images of each concept in a batch.
        seed: of the order.
        processes: that share the batches.

    Raises:
        UserError: the batches are larger than the dataset.
    """

    #: For Accelerate: batches differ in size, and an incomplete group of them is dropped.
    drop_last = True

    def __init__(
        self,
        concepts: dict[int, int],
        sizes: Mapping[int, int],
        images_per_concept: int,
        seed: int,
        processes: int = 1,
    ):
        self.sizes, self.processes = sizes, processes
        self.lengths = plan_lengths(
            {length: processes * size // images_per_concept for length, size in sizes.items()},
            len(set(concepts.values())),
            seed,
        )
        if not self.lengths:
            raise UserError(
                f"the batches of {processes} processes take {processes * min(sizes.values())} "
                "images or more, but the dataset has fewer: use a smaller max_image_tokens or "
                "per_device_train_batch_size"
            )
        super().__init__(concepts, min(sizes.values()), images_per_concept, seed)
        self.batch_size = None

    def __len__(self) -> int:
        return len(self.lengths) * self.processes

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(sorted(self.rows)).tolist()
        start = 0
        for length in rng.permutation(self.lengths).tolist():
            count = self.sizes[length] // self.images_per_concept
            for _ in range(self.processes):
                views = [self.draw_rows(one, rng) for one in order[start : start + count]]
                rows = [row for view in zip(*views, strict=True) for row in view]
                yield [(*index, length) for index in self.number_draws(rows)]
                start += count


def draw_length(lengths: Sequence[int], key: Sequence[int]) -> int:
    """One of the numbers of patches, as a function of the key alone."""
    return lengths[int(np.random.default_rng(key).integers(len(lengths)))]


def plan_lengths(takes: Mapping[int, int], count: int, seed: int) -> list[int]:
    """Draw numbers of patches for the updates of an epoch, evenly, as long as something fits.

    Args:
        takes: number of patches -> concepts that an update with it takes.
        count: concepts of an epoch.
        seed: of the draws.
    """
    rng = np.random.default_rng((seed, *takes))
    lengths = []
    while fitting := [length for length, taken in takes.items() if taken <= count]:
        length = fitting[int(rng.integers(len(fitting)))]
        lengths.append(length)
        count -= takes[length]
    return lengths


class NativeCollator(Collator):
    """Samples of any shapes to a batch of padded patches.

    A batch has `pixel_values` (B, L, D), `pixel_attention_mask` (B, L) and `spatial_shapes` (B, 2),
    as the model takes them. Pixels are augmented here on every device, image by image where shapes
    differ; with `leaves_pixels`, they travel as bytes, `patches`, and `finish` normalises them.

    Args:
        tokenizer: of the texts.
        options: of the augmentation.
        image_mean, image_std: of the normalisation, one number a channel.
        patch_size: side of a patch in pixels.
        seq_lens: numbers of patches to pad to, so that few shapes of batches occur.
        pad_multiple: the padded length of texts is a multiple of this many tokens.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        options: AugmentOptions,
        image_mean: list[float],
        image_std: list[float],
        patch_size: int,
        seq_lens: Sequence[int],
        pad_multiple: int = 1,
    ):
        super().__init__(tokenizer, options, image_mean, image_std, pad_multiple)
        self.patch_size, self.seq_lens = patch_size, sorted(seq_lens)

    def collate_images(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """The patches of each image, which of them are padding, and its rows and columns."""
        images = self.augmented(samples)
        shapes = [[side // self.patch_size for side in image.shape[1:]] for image in images]
        patches = [cut_patches(image[None], self.patch_size)[0] for image in images]
        longest = max(len(one) for one in patches)
        length = next(one for one in self.seq_lens if one >= longest)
        inputs = pad_patches(patches, torch.tensor(shapes), length)
        pixels = inputs.pop("pixel_values")
        if self.leaves_pixels:
            return {"patches": pixels, **inputs}
        return {"pixel_values": self.normalized(pixels), **inputs}

    def augmented(self, samples: list[Sample]) -> list[torch.Tensor]:
        """Each image, (3, height, width): from 0 to 1, or with `leaves_pixels` as bytes."""
        drawn = drawn_pixels(samples)
        places = defaultdict(list)
        for place, (pixels, _) in enumerate(drawn):
            places[pixels.shape].append(place)
        images: dict[int, torch.Tensor] = {}
        for alike in places.values():
            group, noise = zip(*(drawn[place] for place in alike), strict=True)
            varied = augment(torch.stack(group), torch.stack(noise), self.options)
            if self.leaves_pixels:
                varied = varied.mul_(255).round_().clamp_(0, 255).to(torch.uint8)
            images |= dict(zip(alike, varied, strict=True))
        return [images[place] for place in range(len(drawn))]

    def normalized(self, patches: torch.Tensor) -> torch.Tensor:
        """`(pixel - mean) / std` for each channel of patches from 0 to 1, (B, L, D)."""
        pixels = patches.unflatten(-1, (-1, len(self.image_mean)))
        mean, std = (pixels.new_tensor(numbers) for numbers in (self.image_mean, self.image_std))
        return ((pixels - mean) / std).flatten(-2)

    def finish(self, batch: dict) -> dict:
        """A batch whose patches travelled as bytes, with `pixel_values`; others as they are."""
        if "patches" not in batch:
            return batch
        finished = {name: value for name, value in batch.items() if name != "patches"}
        return {**finished, "pixel_values": self.normalized(batch["patches"].float() / 255)}
