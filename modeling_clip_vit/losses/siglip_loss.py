"""A binary classification of each pair of image and text: the loss of SigLIP."""

import torch

from .contrast import Contrast
from .contrastive_loss import ContrastiveLoss
from .targets import Targets, find_positives
from .tiles import softplus_sum


class SigLipLoss(ContrastiveLoss):
    r"""Pairwise sigmoid loss (Zhai et al., 2023, section 3.2).

    .. math:: -\frac{1}{n_I} \sum_{ij} \big( t_{ij} \log\sigma(x_{ij}) +
              (1 - t_{ij}) \log\sigma(-x_{ij}) \big), \quad x_{ij} = s\,a_i \cdot b_j + b

    where `t` is 1 for a matching pair and 0 for any other, or in between with soft targets. It
    equals `softplus(x) - t x`, whose second term needs only sums over the positives.

    Example:
        >>> loss = SigLipLoss()(image_embeds, text_embeds, scale, model.get_logit_bias())
    """

    needs_logit_bias = True
    takes_ring = True

    def local_loss(self, contrast: Contrast, targets: Targets | None, **kwargs) -> torch.Tensor:
        """This process's part: its images with all texts."""
        images, scale, bias = contrast.images, contrast.scale, contrast.bias
        positives = find_positives(targets, contrast)
        all_pairs = softplus_sum(
            images, contrast.columns, scale, bias, self.tile_size, contrast.ring
        )
        positive_logits = scale * (images * positives.total).sum()
        positive_logits = positive_logits + bias * positives.image_weight.sum()
        return (all_pairs - positive_logits) / sum(contrast.image_sizes)
