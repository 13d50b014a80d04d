"""Zero-shot classification: the class whose name is closest to the image."""

import torch


def zero_shot_accuracy(
    image_embeds: torch.Tensor, class_embeds: torch.Tensor, labels: torch.Tensor
) -> dict[str, float]:
    """Share of images whose class comes first, and what always guessing the commonest would give.

    Args:
        image_embeds: of length 1, (images, P).
        class_embeds: embeddings of the classes' names, of length 1, (classes, P).
        labels: class of each image, (images,).
    """
    predicted = (image_embeds @ class_embeds.t()).argmax(dim=1)
    return {
        "accuracy": (predicted == labels).float().mean().item(),
        "majority": labels.bincount().max().item() / len(labels),
    }
