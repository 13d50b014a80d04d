"""The positives of a batch, in each form that the losses accept.

A loss needs only sums over the positives: for each image, the weighted sum of its texts. So no form
needs the matrix of all pairs.

Shape legend: `B` this process's rows, `N` all processes' rows, `P` projection (the embedding), `I`
distinct ids, `J` the two ids of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..normalization import sum_over_processes
from .contrast import Contrast
from .gather import gather_with_gradient, local_rows
from .slot_sums import slot_sums


@dataclass
class MixedIds:
    """Ids of images that are each mixed of two, as Mixup and CutMix make them.

    An image has its first id with weight `weight` and its second with the rest. The target weight
    of a pair is the sum over ids of the product of both weights: for an image and a text, the
    image's weight of the text's id; for two mixed images, the probability that ids drawn from both
    are equal.

    Args:
        first, second: ids, (B,).
        weight: weight of the first id, from 0 to 1, (B,).
    """

    first: torch.Tensor
    second: torch.Tensor
    weight: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        """(B,), as that of plain ids."""
        return self.first.shape

    def __getitem__(self, rows: torch.Tensor) -> MixedIds:
        """The ids of some images."""
        return MixedIds(self.first[rows], self.second[rows], self.weight[rows])

    def heaviest(self) -> torch.Tensor:
        """The id with the larger weight for each image, (B,)."""
        return torch.where(self.weight < 0.5, self.second, self.first)


Ids = torch.Tensor | MixedIds
#: Ids of this process's images and texts, or a matrix of weights between them.
Targets = tuple[Ids, Ids] | torch.Tensor


def check_targets(targets: Targets | None, image_embeds: torch.Tensor, text_embeds: torch.Tensor):
    """Reject embeddings and targets whose shapes do not match.

    Raises:
        ValueError: with the shapes, and what they must be.
    """
    images, texts = tuple(image_embeds.shape), tuple(text_embeds.shape)
    if len(images) != 2 or len(texts) != 2 or images[1] != texts[1]:
        raise ValueError(
            f"image_embeds {images} and text_embeds {texts} must be (images, size) and (texts, "
            "size), of one size"
        )
    if isinstance(targets, torch.Tensor) and targets.shape != (images[0], texts[0]):
        raise ValueError(
            f"targets of shape {tuple(targets.shape)} must be (images, texts) = "
            f"({images[0]}, {texts[0]})"
        )
    if isinstance(targets, tuple):
        lengths = tuple(tuple(ids.shape) for ids in targets)
        if lengths != ((images[0],), (texts[0],)):
            raise ValueError(
                f"ids of shapes {lengths[0]} and {lengths[1]} must be one for each of the "
                f"{images[0]} images and {texts[0]} texts"
            )


@dataclass
class Positives:
    """The matching pairs, as sums.

    Args:
        image_weight, text_weight: sum of the target weights of each of this process's images and
            texts, (B_image,) and (B_text,).
        total: for each of this process's images, the weighted sum of its texts, (B_image, P).
        mean: the same, with weights that average: over an image's texts and then over images, plus
            over a text's images and then over texts. Images and texts without positives are left
            out.
        num_images, num_texts: numbers of images and texts with a positive, over all processes.
    """

    image_weight: torch.Tensor
    text_weight: torch.Tensor
    total: torch.Tensor
    mean: torch.Tensor
    num_images: torch.Tensor
    num_texts: torch.Tensor


def find_positives(targets: Targets | None, contrast: Contrast) -> Positives:
    """The positives among the images and texts of a batch, as `ContrastiveLoss` takes targets."""
    if targets is None:
        return positives_of_pairs(contrast)
    if isinstance(targets, torch.Tensor):
        return positives_of_matrix(targets, contrast)
    image_ids, text_ids = targets
    if isinstance(image_ids, torch.Tensor) and isinstance(text_ids, torch.Tensor):
        return positives_of_ids(image_ids, text_ids, contrast)
    return positives_of_mixed_ids(image_ids, text_ids, contrast)


def positives_of_pairs(contrast: Contrast) -> Positives:
    """Image i matches text i.

    Raises:
        ValueError: the numbers of images and texts differ.
    """
    images, texts = contrast.images, contrast.texts
    if len(images) != len(texts):
        raise ValueError(
            f"{len(images)} images and {len(texts)} texts cannot be paired one to one: pass "
            "targets that say which ones match"
        )
    # Filled on the device: copying a number there would wait for it.
    ones, count = texts.new_ones(len(texts)), texts.new_full((), sum(contrast.text_sizes))
    return Positives(ones, ones, texts, texts * (2 / count), count, count)


def positives_of_matrix(weights: torch.Tensor, contrast: Contrast) -> Positives:
    """This process's images and texts match with weights, (B_image, B_text)."""
    texts = contrast.texts
    weights = weights.to(texts)
    image_weight, text_weight = weights.sum(dim=1), weights.sum(dim=0)
    num_images, num_texts = (
        count_positive(weight, is_local=True) for weight in (image_weight, text_weight)
    )
    per_image = invert(image_weight) / num_images
    per_text = invert(text_weight) / num_texts
    mean_BP = (weights * (per_image[:, None] + per_text[None])) @ texts
    return Positives(image_weight, text_weight, weights @ texts, mean_BP, num_images, num_texts)


def positives_of_ids(
    image_ids: torch.Tensor, text_ids: torch.Tensor, contrast: Contrast
) -> Positives:
    """Images and texts with equal ids match, over all processes."""
    texts, device = contrast.texts, contrast.texts.device
    all_image_ids = gather_with_gradient(image_ids.to(device), contrast.image_sizes)
    all_text_ids = gather_with_gradient(text_ids.to(device), contrast.text_sizes)
    image_ids, text_ids, size = number_ids(all_image_ids, all_text_ids)
    images_per_id, texts_per_id = (
        texts.new_zeros(size).index_add(0, ids, texts.new_ones(len(ids)))
        for ids in (image_ids, text_ids)
    )
    local_image_ids = local_rows(image_ids, contrast.image_sizes)
    local_text_ids = local_rows(text_ids, contrast.text_sizes)
    num_images = count_positive(texts_per_id[image_ids])
    num_texts = count_positive(images_per_id[text_ids])
    slot_of_id = number_slots(local_image_ids, size)
    sums_BP = slot_sums(
        contrast.columns, slot_of_id[text_ids], None, len(local_image_ids) + 1, contrast.ring
    )
    total_BP = sums_BP[slot_of_id[local_image_ids]]
    image_weight = texts_per_id[local_image_ids]
    factor = invert(image_weight) / num_images + 1 / (images_per_id[local_image_ids] * num_texts)
    return Positives(
        image_weight,
        images_per_id[local_text_ids],
        total_BP,
        total_BP * factor[:, None],
        num_images,
        num_texts,
    )


def positives_of_mixed_ids(image_ids: Ids, text_ids: Ids, contrast: Contrast) -> Positives:
    """Images and texts match by the product of their weights of each id, over all processes."""
    texts, sizes = contrast.texts, (contrast.image_sizes, contrast.text_sizes)
    image_ids_NJ, image_weights_NJ = gather_ids(image_ids, texts, sizes[0])
    text_ids_NJ, text_weights_NJ = gather_ids(text_ids, texts, sizes[1])
    image_ids_NJ, text_ids_NJ, size = number_ids(image_ids_NJ, text_ids_NJ)
    images_per_id, texts_per_id = (
        texts.new_zeros(size).index_add(0, ids_NJ.flatten(), weights_NJ.flatten())
        for ids_NJ, weights_NJ in (
            (image_ids_NJ, image_weights_NJ),
            (text_ids_NJ, text_weights_NJ),
        )
    )
    # Sum of a row's target weights: over its ids, and over all rows of the other side.
    image_weight = (image_weights_NJ * texts_per_id[image_ids_NJ]).sum(dim=1)
    text_weight = (text_weights_NJ * images_per_id[text_ids_NJ]).sum(dim=1)
    num_images = count_positive(image_weight)
    num_texts = count_positive(text_weight)
    local_ids_BJ, local_weights_BJ = (
        local_rows(values, sizes[0]) for values in (image_ids_NJ, image_weights_NJ)
    )
    slot_of_id = number_slots(local_ids_BJ.flatten(), size)
    slots_NJ, local_slots_BJ = slot_of_id[text_ids_NJ], slot_of_id[local_ids_BJ]

    def sum_positives(factors: torch.Tensor | None = None) -> torch.Tensor:
        """For each of this process's images, the sum of its texts, by target weight and factor."""
        weights_NJ = text_weights_NJ if factors is None else text_weights_NJ * factors[:, None]
        count = local_ids_BJ.numel() + 1
        sums_IP = slot_sums(contrast.columns, slots_NJ, weights_NJ, count, contrast.ring)
        return (local_weights_BJ[:, :, None] * sums_IP[local_slots_BJ]).sum(dim=1)

    total_BP = sum_positives()
    local_image_weight = local_rows(image_weight, sizes[0])
    by_images_BP = total_BP * (invert(local_image_weight) / num_images)[:, None]
    by_texts_BP = sum_positives(invert(text_weight) / num_texts)
    return Positives(
        local_image_weight,
        local_rows(text_weight, sizes[1]),
        total_BP,
        by_images_BP + by_texts_BP,
        num_images,
        num_texts,
    )


def number_slots(local_ids: torch.Tensor, size: int) -> torch.Tensor:
    """For each id, the row of `slot_sums` that its texts are added to.

    Ids that this process's images do not have share the last row, `len(local_ids)`.

    Args:
        local_ids: numbers of the ids of this process's images.
        size: the number of ids.
    """
    slots = local_ids.new_full((size,), len(local_ids))
    slots[local_ids] = torch.arange(len(local_ids), device=local_ids.device)
    return slots


def number_ids(
    image_ids: torch.Tensor, text_ids: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Ids as numbers from 0, in the same shapes, and a number above all of them.

    Equal ids have equal numbers, and all images whose id no text has share the last one. So the
    numbers are at most one more than the texts, whatever the ids: counting the distinct ones would
    wait for a GPU.
    """
    ids, order = text_ids.flatten().sort()
    if not len(ids):
        return torch.zeros_like(image_ids), torch.zeros_like(text_ids), 1
    ranks = (ids.diff(prepend=ids[:1]) != 0).cumsum(dim=0)
    text_numbers = torch.empty_like(ranks).scatter_(0, order, ranks).view_as(text_ids)
    places = torch.searchsorted(ids, image_ids.contiguous()).clamp_(max=len(ids) - 1)
    image_numbers = torch.where(ids[places] == image_ids, ranks[places], len(ids))
    return image_numbers, text_numbers, len(ids) + 1


def gather_ids(ids: Ids, like: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """All processes' ids and their weights, (N, J) each; the first of plain ids has all weight."""
    if isinstance(ids, MixedIds):
        weight = ids.weight.to(like)
        ids_BJ = torch.stack((ids.first, ids.second), dim=1).to(like.device)
        weights_BJ = torch.stack((weight, 1 - weight), dim=1)
    else:
        ids_BJ = torch.stack((ids, ids), dim=1).to(like.device)
        weights_BJ = torch.cat((like.new_ones(len(ids), 1), like.new_zeros(len(ids), 1)), dim=1)
    return gather_with_gradient(ids_BJ, sizes), gather_with_gradient(weights_BJ, sizes)


def invert(weights: torch.Tensor) -> torch.Tensor:
    """1 / weights, and 0 for weights of 0."""
    return torch.where(weights > 0, 1 / weights.clamp(min=1e-30), 0.0)


def count_positive(weights: torch.Tensor, is_local: bool = False) -> torch.Tensor:
    """The number of weights above 0, over all processes; at least 1.

    Args:
        weights: of all processes, or of this one if `is_local`.
        is_local: whether the other processes have more.
    """
    count = (weights > 0).sum().to(weights.dtype)
    return (sum_over_processes(count) if is_local else count).clamp(min=1)
