"""What belongs together, in the forms that the losses take.

A loss needs only sums over the pairs that belong together: for each image, the weighted sum of the
texts that it belongs to. So no form needs the matrix of all pairs.

Shape legend: `P` embedding, `I` distinct ids, `K` = 2 ids a row; `B` this process's, `N` all
processes'.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ..normalization import sum_over_processes
from .gather import gather_with_gradient, own_rows


@dataclass
class MixedIds:
    """Ids of images that are each mixed of two, as Mixup and CutMix make them.

    An image has its first id with weight `weight` and its second with the rest. The target weight
    of a pair is the sum over ids of the product of both weights: for an image and a text, the
    image's weight of the text's id; for two mixed images, the probability that ids drawn from both
    are equal.

    Args:
        first, second: (B,).
        weight: of the first, from 0 to 1, (B,).
    """

    first: torch.Tensor
    second: torch.Tensor
    weight: torch.Tensor

    @property
    def shape(self) -> torch.Size:
        """(B,), as of plain ids."""
        return self.first.shape

    def __getitem__(self, rows: torch.Tensor) -> MixedIds:
        """Those of some of the images."""
        return MixedIds(self.first[rows], self.second[rows], self.weight[rows])

    def heaviest(self) -> torch.Tensor:
        """The id with the larger weight for each image, (B,)."""
        return torch.where(self.weight < 0.5, self.second, self.first)


Ids = torch.Tensor | MixedIds
#: Ids of this process's images and texts, or a matrix of weights between them.
Targets = tuple[Ids, Ids] | torch.Tensor


def check_targets(targets: Targets | None, image_embeds: torch.Tensor, text_embeds: torch.Tensor):
    """Refuse embeddings and targets that do not go together.

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
    """The pairs that belong together, as sums.

    Args:
        image_weight, text_weight: total weight of what each of this process's images and texts
            belongs to, (B_image,) and (B_text,).
        total: for each of this process's images, the weighted sum of its texts, (B_image, P).
        mean: the same, with weights that sum to the mean over images of the mean over an image's
            texts, plus the mean over texts of the mean over a text's images; those that belong to
            nothing are left out.
        num_images, num_texts: how many belong to something, over all processes.
    """

    image_weight: torch.Tensor
    text_weight: torch.Tensor
    total: torch.Tensor
    mean: torch.Tensor
    num_images: torch.Tensor
    num_texts: torch.Tensor


def find_positives(targets: Targets | None, contrast) -> Positives:
    """Read targets, for the images and texts of a `Contrast`."""
    if targets is None:
        return paired(contrast)
    if isinstance(targets, torch.Tensor):
        return by_matrix(targets, contrast)
    image_ids, text_ids = targets
    if isinstance(image_ids, torch.Tensor) and isinstance(text_ids, torch.Tensor):
        return by_ids(image_ids, text_ids, contrast)
    return by_mixed_ids(image_ids, text_ids, contrast)


def paired(contrast) -> Positives:
    """Image i and text i belong together.

    Raises:
        ValueError: the numbers of images and texts differ.
    """
    images, texts = contrast.images, contrast.texts
    if len(images) != len(texts):
        raise ValueError(
            f"{len(images)} images and {len(texts)} texts cannot be paired one to one: give "
            "targets that say what belongs together"
        )
    # Filled on the device: copying a number there would wait for it.
    ones, count = texts.new_ones(len(texts)), texts.new_full((), sum(contrast.text_sizes))
    return Positives(ones, ones, texts, texts * (2 / count), count, count)


def by_matrix(weights: torch.Tensor, contrast) -> Positives:
    """This process's images and texts belong together with weights, (B_image, B_text)."""
    texts = contrast.texts
    weights = weights.to(texts)
    image_weight, text_weight = weights.sum(dim=1), weights.sum(dim=0)
    num_images, num_texts = count_positive(image_weight), count_positive(text_weight)
    per_image = invert(image_weight) / num_images
    per_text = invert(text_weight) / num_texts
    mean = (weights * (per_image[:, None] + per_text[None])) @ texts
    return Positives(image_weight, text_weight, weights @ texts, mean, num_images, num_texts)


def by_ids(image_ids: torch.Tensor, text_ids: torch.Tensor, contrast) -> Positives:
    """Images and texts of equal ids belong together, over all processes."""
    texts, device = contrast.all_texts, contrast.texts.device
    all_image_ids = gather_with_gradient(image_ids.to(device), contrast.image_sizes)
    all_text_ids = gather_with_gradient(text_ids.to(device), contrast.text_sizes)
    _, numbers = torch.cat((all_image_ids, all_text_ids)).unique(return_inverse=True)
    all_images_I, all_texts_I = numbers.split((len(all_image_ids), len(all_text_ids)))
    size = len(numbers)
    images_per_id, texts_per_id = (
        texts.new_zeros(size).index_add(0, ids, texts.new_ones(len(ids)))
        for ids in (all_images_I, all_texts_I)
    )
    sums_IP = texts.new_zeros(size, texts.shape[1]).index_add(0, all_texts_I, texts)
    own_images = own_rows(all_images_I, contrast.image_sizes)
    own_texts = own_rows(all_texts_I, contrast.text_sizes)
    num_images = (texts_per_id[all_images_I] > 0).sum().clamp(min=1).to(texts.dtype)
    num_texts = (images_per_id[all_texts_I] > 0).sum().clamp(min=1).to(texts.dtype)
    total = sums_IP[own_images]
    image_weight = texts_per_id[own_images]
    share = invert(image_weight) / num_images + 1 / (images_per_id[own_images] * num_texts)
    return Positives(
        image_weight,
        images_per_id[own_texts],
        total,
        total * share[:, None],
        num_images,
        num_texts,
    )


def by_mixed_ids(image_ids: Ids, text_ids: Ids, contrast) -> Positives:
    """Images and texts belong together by the weights of shared ids, over all processes."""
    texts, sizes = contrast.all_texts, (contrast.image_sizes, contrast.text_sizes)
    image_ids_NK, image_weights_NK = gather_ids(image_ids, texts, sizes[0])
    text_ids_NK, text_weights_NK = gather_ids(text_ids, texts, sizes[1])
    _, numbers = torch.cat((image_ids_NK, text_ids_NK)).unique(return_inverse=True)
    images_NK, texts_NK = numbers.split((len(image_ids_NK), len(text_ids_NK)))
    size = numbers.numel()
    images_per_id, texts_per_id = (
        texts.new_zeros(size).index_add(0, ids_NK.flatten(), weights_NK.flatten())
        for ids_NK, weights_NK in ((images_NK, image_weights_NK), (texts_NK, text_weights_NK))
    )
    # What a row has in common with all rows of the other side, over its ids.
    image_weight = (image_weights_NK * texts_per_id[images_NK]).sum(dim=1)
    text_weight = (text_weights_NK * images_per_id[texts_NK]).sum(dim=1)
    num_images = (image_weight > 0).sum().clamp(min=1).to(texts.dtype)
    num_texts = (text_weight > 0).sum().clamp(min=1).to(texts.dtype)
    own_ids_BK, own_weights_BK = (
        own_rows(values, sizes[0]) for values in (images_NK, image_weights_NK)
    )

    def sum_common(values_NP: torch.Tensor) -> torch.Tensor:
        """For each of this process's images, the sum of texts by what is in common, (B, P)."""
        sums_IP = texts.new_zeros(size, texts.shape[1])
        for ids, weights in zip(texts_NK.t(), text_weights_NK.t(), strict=True):
            sums_IP = sums_IP.index_add(0, ids, weights[:, None] * values_NP)
        return (own_weights_BK[:, :, None] * sums_IP[own_ids_BK]).sum(dim=1)

    total = sum_common(texts)
    own_weight = own_rows(image_weight, sizes[0])
    by_images = total * (invert(own_weight) / num_images)[:, None]
    by_texts = sum_common(texts * (invert(text_weight) / num_texts)[:, None])
    return Positives(
        own_weight,
        own_rows(text_weight, sizes[1]),
        total,
        by_images + by_texts,
        num_images,
        num_texts,
    )


def gather_ids(ids: Ids, like: torch.Tensor, sizes: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The ids of all processes and their weights, (N, K) each; a plain id has all of the weight."""
    if isinstance(ids, MixedIds):
        weight = ids.weight.to(like)
        ids_BK = torch.stack((ids.first, ids.second), dim=1).to(like.device)
        weights_BK = torch.stack((weight, 1 - weight), dim=1)
    else:
        ids_BK = torch.stack((ids, ids), dim=1).to(like.device)
        weights_BK = like.new_tensor([1.0, 0.0]).expand(len(ids), 2)
    return gather_with_gradient(ids_BK, sizes), gather_with_gradient(weights_BK, sizes)


def invert(weights: torch.Tensor) -> torch.Tensor:
    """1 / weights, and 0 where they are 0."""
    return torch.where(weights > 0, 1 / weights.clamp(min=1e-30), 0.0)


def count_positive(weights: torch.Tensor) -> torch.Tensor:
    """How many weights are above 0, over all processes; at least 1."""
    return sum_over_processes((weights > 0).sum().to(weights.dtype)).clamp(min=1)
