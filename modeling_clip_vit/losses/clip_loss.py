"""InfoNCE in both directions: the loss of CLIP."""

import torch
from torch import nn

from .gather import gather_with_gradient


class ClipLoss(nn.Module):
    r"""Softmax over the batch, image to text and text to image (Radford et al., 2021, section 2.3).

    .. math:: \tfrac12 \Big( \mathrm{CE}(s\,I T^\top, \mathrm{id}) +
              \mathrm{CE}(s\,T I^\top, \mathrm{id}) \Big)

    Image i belongs to text i, and every other pair of the batch is a negative, over all processes.

    Example:
        >>> loss = ClipLoss()(image_embeds, text_embeds, model.get_logit_scale())
    """

    def forward(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        targets: None = None,
    ) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            image_embeds: this process's images, of length 1, (B, P).
            text_embeds: their texts, of length 1, (B, P).
            logit_scale: the factor on the cosine similarities, already exponentiated.
            logit_bias: added to the logits; a constant does not change a softmax.
            targets: must be None; `MultiPositiveLoss` takes targets.

        Raises:
            ValueError: the numbers of images and texts differ, or there are targets.
        """
        if targets is not None or len(image_embeds) != len(text_embeds):
            raise ValueError(
                f"ClipLoss pairs image i with text i, but got {len(image_embeds)} images and "
                f"{len(text_embeds)} texts{'' if targets is None else ' with targets'}: "
                "MultiPositiveLoss takes several positives"
            )
        image_embeds = gather_with_gradient(image_embeds)
        text_embeds = gather_with_gradient(text_embeds)
        logits_BB = logit_scale * image_embeds @ text_embeds.t()
        diagonal_B = torch.arange(len(logits_BB), device=logits_BB.device)
        image_loss = nn.functional.cross_entropy(logits_BB, diagonal_B)
        return (image_loss + nn.functional.cross_entropy(logits_BB.t(), diagonal_B)) / 2
