"""What all contrastive losses share: one signature, and one share of the work for each process.

Shape legend: `P` embedding; `B` this process's, `N` all processes'.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from ..normalization import upcast
from .gather import gather_with_gradient, share_loss, share_sizes
from .targets import Targets, check_targets
from .tiles import TileSize


@dataclass
class Contrast:
    """This process's images and texts, against the texts of all processes.

    Args:
        images, texts: this process's embeddings, (B_image, P) and (B_text, P), at least float32.
        all_texts: those of all processes, (N_text, P).
        scale, bias: of the logits, scalar tensors.
        image_sizes, text_sizes: number of images and texts of each process.
    """

    images: torch.Tensor
    texts: torch.Tensor
    all_texts: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor
    image_sizes: list[int]
    text_sizes: list[int]


class ContrastiveLoss(nn.Module, ABC):
    """A loss over the similarities of all images with all texts, of all processes.

    Args:
        tile_size: side of the tiles that the matrix of similarities is computed in, so that memory
            grows with the batch and not with its square; `auto` chooses by the device, None takes
            the whole matrix at once.
    """

    #: Whether image i has text i as its only positive, so that a recipe has no other to name.
    pairs_only: ClassVar[bool] = False
    #: Whether the loss reads the logit bias, which the model must then have.
    needs_logit_bias: ClassVar[bool] = False
    #: Arguments of the constructor that a recipe sets -> the name of the recipe's option.
    options: ClassVar[dict[str, str]] = {}

    def __init__(self, tile_size: TileSize = "auto"):
        super().__init__()
        self.tile_size = tile_size

    def forward(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        targets: Targets | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """The loss, a scalar, computed in float32 or better.

        Args:
            image_embeds: this process's images, of length 1, (B_image, P).
            text_embeds: this process's texts, of length 1, (B_text, P).
            logit_scale: the factor on the cosine similarities, already exponentiated.
            logit_bias: added to the logits; a constant does not change a softmax.
            targets: what belongs together: ids `(image_ids (B_image,), text_ids (B_text,))`, equal
                ones over all processes, or `MixedIds` of images that show two; or a matrix of
                weights (B_image, B_text) for this process's images and texts, which no other's
                belong to; or None: image i belongs to text i.

        Raises:
            ValueError: shapes do not go together.
        """
        check_targets(targets, image_embeds, text_embeds)
        with torch.autocast(image_embeds.device.type, enabled=False):
            # In half precision, a logit of 100 would have one binary digit after the point.
            images, texts = (upcast(embeds) for embeds in (image_embeds, text_embeds))
            scale = torch.as_tensor(logit_scale, device=images.device).to(images.dtype)
            bias = torch.zeros_like(scale) if logit_bias is None else logit_bias.to(images.dtype)
            sizes = share_sizes(len(images), len(texts), device=images.device)
            all_texts = gather_with_gradient(texts, sizes[1])
            contrast = Contrast(
                images, texts, all_texts, scale.reshape(()), bias.reshape(()), *sizes
            )
            return share_loss(self.share(contrast, targets, **kwargs))

    @abstractmethod
    def share(self, contrast: Contrast, targets: Targets | None, **kwargs) -> torch.Tensor:
        """This process's share of the loss: the shares of all processes sum to it."""
