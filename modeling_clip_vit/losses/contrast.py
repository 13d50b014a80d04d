"""What a loss compares.

Shape legend: `B` this process's rows, `N` all processes' rows, `P` projection (the embedding).
"""

from dataclasses import dataclass

import torch


@dataclass
class Contrast:
    """This process's images and texts, and the texts of all processes.

    Args:
        images, texts: this process's embeddings, (B_image, P) and (B_text, P), at least float32.
        all_texts: all processes' texts, (N_text, P).
        scale, bias: scale and bias of the logits, scalar tensors.
        image_sizes, text_sizes: number of images and of texts of each process.
    """

    images: torch.Tensor
    texts: torch.Tensor
    all_texts: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    image_sizes: list[int]
    text_sizes: list[int]
