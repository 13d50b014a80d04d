"""Softmax loss in which similar negatives have a higher weight."""

from typing import cast

import torch
from torch import nn

from .contrast import Contrast, Exchange
from .contrastive_loss import ContrastiveLoss
from .gather import gather_with_gradient, local_rows
from .targets import Targets
from .tiles import TileSize, log_sum_exp


class HardNegativeLoss(ContrastiveLoss):
    r"""HN-NCE (Radenovic et al., 2023, section 3.3), after Robinson et al. (2021, section 3).

    .. math:: \tfrac12 \sum_d \frac1n \sum_i -\log \frac{e^{x_{ii}}}{e^{x_{ii}} +
              \sum_{j \neq i} w_{ij} e^{x_{ij}}}, \quad
              w_{ij} = \frac{m_i\, e^{\beta x_{ij}}}{\sum_{k \neq i} e^{\beta x_{ik}}}

    with `x = s a_i . b_j` and `m_i` negatives of row i, so that their weights average 1. With
    `beta` 0 it is `ClipLoss`. Image i matches text i; with ids as targets, other pairs of equal ids
    are not negatives either.

    Args:
        beta: exponent of the weights; 0 weights all negatives alike.
        tile_size, exchange: as in `ContrastiveLoss`.

    Example:
        >>> loss = HardNegativeLoss(beta=0.25)(image_embeds, text_embeds, scale)
    """

    pairs_only = True
    takes_ring = True
    options = {"beta": "hard_negative_beta"}

    def __init__(
        self, beta: float = 0.25, tile_size: TileSize = "auto", exchange: Exchange = "gather"
    ):
        super().__init__(tile_size, exchange)
        if beta < 0:
            raise ValueError(f"beta={beta} is not allowed: it must be at least 0")
        self.beta = beta

    def local_loss(self, contrast: Contrast, targets: Targets | None, **kwargs) -> torch.Tensor:
        """This process's part: its images and its texts.

        Raises:
            ValueError: targets are a matrix or have mixed images, or the numbers of images and
                texts differ.
        """
        images, texts = contrast.images, contrast.texts
        are_ids = targets is None or all(isinstance(ids, torch.Tensor) for ids in targets)
        if isinstance(targets, torch.Tensor) or not are_ids or len(images) != len(texts):
            raise ValueError(
                "HardNegativeLoss pairs image i with text i: it takes ids as targets, or none, and "
                f"as many images as texts, but got {len(images)} and {len(texts)}"
            )
        ids = cast("tuple[torch.Tensor, torch.Tensor] | None", targets)
        image_ids, all_text_ids = self.find_ids(ids, contrast)
        log_counts = self.log_counts(image_ids, all_text_ids, contrast)
        weighted = self.log_sums(1 + self.beta, contrast, image_ids, all_text_ids)
        weights = self.log_sums(self.beta, contrast, image_ids, all_text_ids)
        positive = contrast.scale * (images * texts).sum(dim=1)
        loss = positive.new_zeros(())
        for count, upper, lower in zip(log_counts, weighted, weights, strict=True):
            # A row without negatives has sums of minus infinity, and no loss.
            negative = torch.where(count.isneginf(), -torch.inf, count + upper - lower.nan_to_num())
            loss = loss + nn.functional.softplus(negative - positive).sum()
        return loss / (2 * sum(contrast.image_sizes))

    def find_ids(
        self, targets: tuple[torch.Tensor, torch.Tensor] | None, contrast: Contrast
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids of this process's images and of all texts; without targets, the pairs' numbers."""
        if targets is not None:
            image_ids, text_ids = (ids.to(contrast.texts.device) for ids in targets)
            return image_ids, gather_with_gradient(text_ids, contrast.text_sizes)
        all_ids = torch.arange(sum(contrast.text_sizes), device=contrast.texts.device)
        return local_rows(all_ids, contrast.text_sizes), all_ids

    def log_counts(
        self, image_ids: torch.Tensor, all_text_ids: torch.Tensor, contrast: Contrast
    ) -> list[torch.Tensor]:
        """Logarithms of the numbers of negatives of this process's images, and of its texts."""
        all_image_ids = gather_with_gradient(image_ids, contrast.image_sizes)
        text_ids = local_rows(all_text_ids, contrast.text_sizes)
        return [
            (len(others) - count_equal(ids, others)).to(contrast.images.dtype).log()
            for ids, others in ((image_ids, all_text_ids), (text_ids, all_image_ids))
        ]

    def log_sums(
        self,
        factor: float,
        contrast: Contrast,
        image_ids: torch.Tensor,
        all_text_ids: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """`log sum exp` over the negatives of this process's images, and of its texts.

        Args:
            factor: of the scale.
            contrast: of the batch.
            image_ids, all_text_ids: as `find_ids` returns them.
        """
        image_sums, text_sums = log_sum_exp(
            contrast.images,
            contrast.columns,
            contrast.scale * factor,
            self.tile_size,
            image_ids,
            all_text_ids,
            contrast.ring,
        )
        return image_sums, local_rows(text_sums, contrast.text_sizes)


def count_equal(ids: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """The number of other ids that equal each id, (len(ids),)."""
    ordered = others.sort().values
    first, end = (torch.searchsorted(ordered, ids, right=right) for right in (False, True))
    return end - first
