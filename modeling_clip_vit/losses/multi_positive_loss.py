"""Softmax loss in which an image or a text may have several positives."""

import torch

from ..normalization import sum_over_processes
from .contrast import Contrast, Exchange
from .contrastive_loss import ContrastiveLoss
from .gather import local_rows
from .targets import Positives, Targets, find_positives
from .tiles import TileSize, log_sum_exp


class MultiPositiveLoss(ContrastiveLoss):
    r"""UniCL's loss (Yang et al., 2022, section 3.2; Khosla et al., 2020, equation 2).

    .. math:: \tfrac12 \sum_{d \in \{I \to T,\, T \to I\}} \frac{1}{n_d} \sum_i
              \frac{-1}{|P_i|} \sum_{j \in P_i} \log\mathrm{softmax}_j(s\,a_i \cdot b_j)

    where `P_i` are the positives of row i; rows without one are left out. With one positive per row
    it is `ClipLoss`. A matrix as targets gives soft targets, such as those of Mixup and CutMix: the
    target of a row's softmax is its weights divided by their sum. To contrast images with images,
    pass the other views of each concept as texts.

    Args:
        label_smoothing: share of each target that is spread evenly over all columns (Szegedy et
            al., 2016, section 7).
        tile_size, exchange: as in `ContrastiveLoss`.

    Example:
        >>> targets = (image_ids, caption_ids)  # two images of concept 7 and its caption have id 7
        >>> loss = MultiPositiveLoss()(image_embeds, text_embeds, scale, targets=targets)
    """

    takes_ring = True
    options = {"label_smoothing": "label_smoothing"}

    def __init__(
        self,
        label_smoothing: float = 0.0,
        tile_size: TileSize = "auto",
        exchange: Exchange = "gather",
    ):
        super().__init__(tile_size, exchange)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"label_smoothing={label_smoothing} is not allowed: it must be at least 0 and "
                "below 1"
            )
        self.label_smoothing = label_smoothing

    def local_loss(self, contrast: Contrast, targets: Targets | None, **kwargs) -> torch.Tensor:
        """This process's part: `log sum exp` of its rows, minus the logits of their targets."""
        images, scale = contrast.images, contrast.scale
        positives = find_positives(targets, contrast)
        image_sums, all_text_sums = log_sum_exp(
            images, contrast.columns, scale, self.tile_size, ring=contrast.ring
        )
        text_sums = local_rows(all_text_sums, contrast.text_sizes)
        has_text, has_image = positives.image_weight > 0, positives.text_weight > 0
        # Without any column a sum is minus infinity, which times 0 is NaN.
        repulsion = torch.where(has_text, image_sums, 0).sum() / positives.num_images
        repulsion = repulsion + torch.where(has_image, text_sums, 0).sum() / positives.num_texts
        target_texts = positives.mean
        if self.label_smoothing > 0:
            even_texts = self.spread_evenly(contrast, positives)
            target_texts = (1 - self.label_smoothing) * target_texts
            target_texts = target_texts + self.label_smoothing * even_texts
        return (repulsion - scale * (images * target_texts).sum()) / 2

    def spread_evenly(self, contrast: Contrast, positives: Positives) -> torch.Tensor:
        """For each image, the weighted sum of texts with even targets, (B_image, P)."""
        has_image = (positives.text_weight > 0)[:, None]
        texts = contrast.texts
        total, targeted = sum_over_processes(
            torch.stack((texts.sum(dim=0), (texts * has_image).sum(dim=0)))
        )
        mean_text = total / max(sum(contrast.text_sizes), 1)
        by_images = (positives.image_weight > 0)[:, None] * mean_text / positives.num_images
        return by_images + targeted / (positives.num_texts * max(sum(contrast.image_sizes), 1))
