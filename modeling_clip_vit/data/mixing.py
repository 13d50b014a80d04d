"""Mix the images of a batch two by two: Mixup and CutMix.

Batches are mixed in the training loop, not when they are collated, so mixing runs on the training
device and stops exactly at the update that the options name. All that is random in it comes from
the seeds of the batch's samples, so it does not depend on how many workers prepared them.

Shape legend: `B` images, `S` side in pixels, `C` classes.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from ..utils.devices import copies_pinned
from .errors import DataError, check_option

Partners = Literal["any", "concept"]


@dataclass
class MixOptions:
    """How often images are mixed, and with which other image.

    Args:
        mixup_probability: share of the images to blend with another one (Zhang et al., 2018).
        mixup_alpha: the mixing weight is drawn from Beta(alpha, alpha): above 1 mostly even
            mixtures, below 1 mostly uneven ones.
        cutmix_probability: share of the images to paste a rectangle of another one into (Yun et
            al., 2019).
        cutmix_alpha: as mixup_alpha, for the share of the area.
        mix_partners: `any` mixes with any other image of the batch; `concept` only with one of the
            same concept, so that the texts stay correct.
        mix_until: share of the updates after which mixing stops.
    """

    mixup_probability: float = 0.0
    mixup_alpha: float = 0.8
    cutmix_probability: float = 0.0
    cutmix_alpha: float = 1.0
    mix_partners: Partners = "any"
    mix_until: float = 1.0

    def __post_init__(self):
        for name in ("mixup_probability", "cutmix_probability"):
            check_option(0 <= getattr(self, name) <= 1, self, name, "from 0 to 1")
        for name in ("mixup_alpha", "cutmix_alpha"):
            check_option(getattr(self, name) > 0, self, name, "above 0")
        total = self.mixup_probability + self.cutmix_probability
        if total > 1:
            raise DataError(
                f"mixup_probability={self.mixup_probability} is not allowed with "
                f"cutmix_probability={self.cutmix_probability}: an image is mixed in one way, so "
                "their sum must be at most 1"
            )
        allowed = get_args(Partners)
        one_of = f"one of {', '.join(allowed)}"
        check_option(self.mix_partners in allowed, self, "mix_partners", one_of)
        is_share = 0 < self.mix_until <= 1
        check_option(is_share, self, "mix_until", "a share of the run, above 0 and at most 1")

    @property
    def is_on(self) -> bool:
        """Whether anything is ever mixed."""
        return self.mixup_probability + self.cutmix_probability > 0


def mix_seed(seeds: Sequence[int]) -> int:
    """A seed that depends only on the samples' seeds and their order."""
    return int(np.random.SeedSequence(list(seeds)).generate_state(1, np.uint64)[0])


def mix_batch(batch: dict, options: MixOptions, progress: float) -> dict:
    """Mix the images of a batch.

    Args:
        batch: of a `Collator`: `pixel_values` (B, 3, S, S), `image_ids` (B,), `mix_seed` and, of a
            classifier, `labels` (B,).
        options: how.
        progress: share of the run's updates that are done.

    Returns:
        The batch; if the options mix at all, with mixed `pixel_values`, with `mixed_ids` and
        `mixed_labels` (B,) of the images mixed in, and with `mix_weight` (B,), the weight of the
        first image, which is 1 where nothing is mixed in.
    """
    if not options.is_on:
        return batch
    names = {"image_ids": "mixed_ids", "labels": "mixed_labels"}
    images = batch["pixel_values"]
    count, side = images.shape[0], images.shape[-1]
    rng = np.random.default_rng(batch["mix_seed"])
    groups = np.zeros(count)
    if options.mix_partners == "concept":
        groups = np.unique(batch["image_ids"].cpu().numpy(), return_inverse=True)[1]
    partner = copy_numbers(torch.from_numpy(draw_partners(groups, rng)), images.device)
    weight = images.new_ones(count)
    if progress < options.mix_until:
        numbers = torch.from_numpy(draw_rectangles(count, side, options, rng)).to(images.dtype)
        rectangles = copy_numbers(numbers, images.device)
        keep, weight = weigh_pixels(rectangles, side)
        images = torch.lerp(images[partner], images, keep)
    mixed = {names[name]: batch[name][partner] for name in names if name in batch}
    return {**batch, "pixel_values": images, **mixed, "mix_weight": weight}


def copy_numbers(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Numbers on a device, which is not waited for where it copies pinned memory."""
    values = values.pin_memory() if copies_pinned(device.type) else values
    return values.to(device, non_blocking=True)


def draw_partners(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """For each image another one of its group, itself where it is alone: (B,).

    Every image is mixed into one other.
    """
    order = np.lexsort((rng.random(len(groups)), groups))
    starts = np.flatnonzero(np.diff(groups[order], prepend=np.nan, append=np.nan))
    partner = np.empty(len(groups), dtype=np.int64)
    for start, end in itertools.pairwise(starts):
        members = order[start:end]
        partner[members] = np.roll(members, -1)
    return partner


def draw_rectangles(
    count: int, side: int, options: MixOptions, rng: np.random.Generator
) -> np.ndarray:
    """What is taken of an image's partner: (B, 5).

    Returns:
        For each image the weight of its partner outside of a rectangle, and the rectangle, in which
        only the partner shows: top, bottom, left and right in pixels.
    """
    choice = rng.random(count)
    is_blended = choice < options.mixup_probability
    is_cut = ~is_blended & (choice < options.mixup_probability + options.cutmix_probability)
    blended = np.where(is_blended, rng.beta(options.mixup_alpha, options.mixup_alpha, count), 0)
    area = np.where(is_cut, rng.beta(options.cutmix_alpha, options.cutmix_alpha, count), 0)
    # The rectangle has the shape of the image, and its centre anywhere (Yun et al., equation 2).
    half = np.sqrt(area) * side / 2
    edges = [
        np.clip(np.rint(centre + sign * half), 0, side)
        for centre in rng.random((2, count)) * side
        for sign in (-1, 1)
    ]
    return np.stack((blended, *edges), axis=1)


def weigh_pixels(rectangles: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight of each pixel of the first image, (B, 1, S, S), and their mean, (B,)."""
    blended, top, bottom, left, right = rectangles[:, :, None].unbind(dim=1)
    place = torch.arange(side, device=rectangles.device)
    in_rows = (place >= top) & (place < bottom)
    in_columns = (place >= left) & (place < right)
    keep = ((1 - blended)[:, :, None] * ~(in_rows[:, :, None] & in_columns[:, None, :]))[:, None]
    return keep, keep.mean(dim=(1, 2, 3))


def mix_class_targets(
    labels: torch.Tensor,
    mixed_labels: torch.Tensor,
    weight: torch.Tensor,
    num_classes: int,
) -> torch.Tensor:
    """Soft class labels of mixed images, (B, C), each row of sum 1.

    Args:
        labels, mixed_labels: classes of the images and of those mixed in, (B,).
        weight: of the first, (B,).
        num_classes: C.
    """
    targets = weight.new_zeros(len(labels), num_classes)
    targets.scatter_add_(1, labels[:, None], weight[:, None])
    return targets.scatter_add_(1, mixed_labels[:, None], 1 - weight[:, None])
