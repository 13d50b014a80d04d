"""Every pair of image and text as a yes-or-no question: the loss of SigLIP."""

import torch

from .contrastive_loss import Contrast, ContrastiveLoss
from .targets import Targets, find_positives
from .tiles import softplus_sum


class SigLipLoss(ContrastiveLoss):
    r"""Pairwise sigmoid loss (Zhai et al., 2023, section 3.2).

    .. math:: -\frac{1}{n_I} \sum_{ij} \big( t_{ij} \log\sigma(x_{ij}) +
              (1 - t_{ij}) \log\sigma(-x_{ij}) \big), \quad x_{ij} = s\,a_i \cdot b_j + b

    where `t` is 1 for a pair that belongs together and 0 otherwise, or between them in a matrix.
    It equals `softplus(x) - t x`, whose second part needs only sums.

    Example:
        >>> loss = SigLipLoss()(image_embeds, text_embeds, scale, model.get_logit_bias())
    """

    needs_logit_bias = True

    def share(self, contrast: Contrast, targets: Targets | None, **kwargs) -> torch.Tensor:
        """This process's share: its images with all texts."""
        images, scale, bias = contrast.images, contrast.scale, contrast.bias
        positives = find_positives(targets, contrast)
        all_pairs = softplus_sum(images, contrast.all_texts, scale, bias, self.tile_size)
        right_pairs = scale * (images * positives.total).sum() + bias * positives.image_weight.sum()
        return (all_pairs - right_pairs) / sum(contrast.image_sizes)
