"""InfoNCE in both directions: the loss of CLIP."""

import torch

from .contrast import Contrast
from .multi_positive_loss import MultiPositiveLoss
from .targets import Targets


class ClipLoss(MultiPositiveLoss):
    r"""Softmax over the batch, image to text and text to image (Radford et al., 2021, section 2.3).

    .. math:: \tfrac12 \Big( \mathrm{CE}(s\,I T^\top, \mathrm{id}) +
              \mathrm{CE}(s\,T I^\top, \mathrm{id}) \Big)

    Image i belongs to text i, and every other pair of the batch is a negative, over all processes.

    Example:
        >>> loss = ClipLoss()(image_embeds, text_embeds, model.get_logit_scale())
    """

    pairs_only = True

    def local_loss(self, contrast: Contrast, targets: Targets | None, **kwargs) -> torch.Tensor:
        """As in `MultiPositiveLoss`, for pairs only.

        Raises:
            ValueError: there are targets.
        """
        if targets is not None:
            raise ValueError(
                "ClipLoss pairs image i with text i and takes no targets: MultiPositiveLoss does"
            )
        return super().local_loss(contrast, None)
