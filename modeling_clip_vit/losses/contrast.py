"""What a loss compares.

Shape legend: `B` this process's rows, `N` all processes' rows, `P` projection (the embedding).
"""

from dataclasses import dataclass
from typing import Literal

import torch

from .ring import Ring

#: How the texts of all processes meet the images of each.
Exchange = Literal["gather", "ring"]


@dataclass
class Contrast:
    """This process's images and texts, and the texts of all processes.

    Args:
        images, texts: this process's embeddings, (B_image, P) and (B_text, P), at least float32.
        columns: the texts that images are compared with: those of all processes, (N_text, P); or
            this process's, (B_text, P), which travel round a ring.
        ring: the ring of texts. Without one that travels, it has a single block.
        scale, bias: scale and bias of the logits, scalar tensors.
        image_sizes, text_sizes: number of images and of texts of each process.
    """

    images: torch.Tensor
    texts: torch.Tensor
    columns: torch.Tensor
    ring: Ring
    scale: torch.Tensor
    bias: torch.Tensor
    image_sizes: list[int]
    text_sizes: list[int]

    @property
    def all_texts(self) -> torch.Tensor:
        """All processes' texts, (N_text, P), for losses that need them at once.

        Raises:
            RuntimeError: they travel.
        """
        if len(self.ring.sizes) > 1:
            raise RuntimeError("no process has all texts while they travel round a ring")
        return self.columns
