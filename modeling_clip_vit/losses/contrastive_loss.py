"""What all contrastive losses have in common: their signature, and how processes share the work.

Shape legend: `B` this process's rows, `N` all processes' rows, `P` projection (the embedding).
"""

from abc import ABC, abstractmethod
from typing import ClassVar, get_args

import torch
import torch.distributed as dist
from torch import nn

from ..normalization import upcast
from .contrast import Contrast, Exchange
from .gather import EarlyGather, gather_sizes, gather_with_gradient, global_loss
from .ring import Ring
from .targets import Targets, check_targets
from .tiles import TileSize


class ContrastiveLoss(nn.Module, ABC):
    """A loss over the similarities of all images with all texts, of all processes.

    Args:
        tile_size: the matrix of similarities is computed in tiles of this side, so that memory
            grows with the batch and not with its square; `auto` chooses the side by the device,
            None computes the whole matrix at once.
        exchange: how texts meet the images of other processes: `gather` gives each process all
            texts; with `ring`, they travel round the processes, twice with the backward pass, and a
            process never has more of them than a few times its own share.

    Raises:
        ValueError: the loss needs all texts at once, and `exchange` is `ring`.
    """

    #: Whether text i is the only positive of image i, which rules out recipes with other positives.
    pairs_only: ClassVar[bool] = False
    #: Whether the loss reads the logit bias, which the model must then have.
    needs_logit_bias: ClassVar[bool] = False
    #: Whether texts may travel: the loss reads `Contrast.columns` by functions that take its ring.
    takes_ring: ClassVar[bool] = False
    #: Argument of the constructor -> the option of a recipe that sets it.
    options: ClassVar[dict[str, str]] = {}

    def __init__(self, tile_size: TileSize = "auto", exchange: Exchange = "gather"):
        super().__init__()
        if exchange not in get_args(Exchange) or (exchange == "ring" and not self.takes_ring):
            raise ValueError(f"exchange={exchange!r} is not allowed with {type(self).__name__}")
        self.tile_size, self.exchange = tile_size, exchange

    def forward(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        targets: Targets | None = None,
        has_equal_shares: bool = False,
        early: EarlyGather | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """The loss, a scalar, computed in float32 or better.

        Args:
            image_embeds: this process's normalised image embeddings, (B_image, P).
            text_embeds: this process's normalised text embeddings, (B_text, P).
            logit_scale: the factor on the cosine similarities, already exponentiated.
            logit_bias: added to the logits; a constant does not change a softmax.
            targets: the positives. Either ids `(image_ids (B_image,), text_ids (B_text,))`, where
                equal ids match, also between processes, and `MixedIds` are for mixed images; or a
                matrix of weights (B_image, B_text), if no image matches a text of another process;
                or None, if image i matches text i.
            has_equal_shares: whether all processes are known to have as many images, and as many
                texts; otherwise they tell each other.
            early: a gather of `text_embeds` that has begun.

        Raises:
            ValueError: the shapes do not match.
        """
        check_targets(targets, image_embeds, text_embeds)
        with torch.autocast(image_embeds.device.type, enabled=False):
            # In bfloat16, logits near 100 are half a unit apart.
            images, texts = (upcast(embeds) for embeds in (image_embeds, text_embeds))
            scale = torch.as_tensor(logit_scale, device=images.device).to(images.dtype)
            bias = torch.zeros_like(scale) if logit_bias is None else logit_bias.to(images.dtype)
            image_sizes, text_sizes = gather_sizes(
                len(images), len(texts), device=images.device, are_equal=has_equal_shares
            )
            columns, ring = self.columns(texts, text_sizes, early)
            contrast = Contrast(
                images,
                texts,
                columns,
                ring,
                scale.reshape(()),
                bias.reshape(()),
                image_sizes,
                text_sizes,
            )
            return global_loss(self.local_loss(contrast, targets, **kwargs))

    def columns(
        self, texts: torch.Tensor, text_sizes: list[int], early: EarlyGather | None
    ) -> tuple[torch.Tensor, Ring]:
        """The texts that images are compared with, and the ring that they travel round."""
        if self.exchange == "ring" and len(text_sizes) > 1:
            return texts, Ring(text_sizes, dist.get_rank())
        return gather_with_gradient(texts, text_sizes, early), Ring([sum(text_sizes)])

    @abstractmethod
    def local_loss(self, contrast: Contrast, targets: Targets | None, **kwargs) -> torch.Tensor:
        """This process's part of the loss, a scalar: the parts of all processes add up to it."""
