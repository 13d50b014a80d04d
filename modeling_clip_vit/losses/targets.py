"""What belongs together, in the three forms that the losses take.

Of the pairs that belong together, a loss needs only sums: for each image, the weighted sum of the
texts that it belongs to. So no form needs the matrix of all pairs.

Shape legend: `P` embedding, `I` distinct ids; `B` this process's, `N` all processes'.
"""

from dataclasses import dataclass

import torch

from ..normalization import sum_over_processes
from .gather import gather_with_gradient, own_rows

#: Ids of this process's images and texts, or a matrix of weights between them.
Targets = tuple[torch.Tensor, torch.Tensor] | torch.Tensor


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
    return by_ids(*targets, contrast)


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
    ones, count = texts.new_ones(len(texts)), texts.new_tensor(sum(contrast.text_sizes))
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


def invert(weights: torch.Tensor) -> torch.Tensor:
    """1 / weights, and 0 where they are 0."""
    return torch.where(weights > 0, 1 / weights.clamp(min=1e-30), 0.0)


def count_positive(weights: torch.Tensor) -> torch.Tensor:
    """How many weights are above 0, over all processes; at least 1."""
    return sum_over_processes((weights > 0).sum().to(weights.dtype)).clamp(min=1)
