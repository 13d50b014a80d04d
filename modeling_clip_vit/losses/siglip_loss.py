"""Every pair of image and text as a yes-or-no question: the loss of SigLIP."""

import torch
from torch import nn

from .gather import gather_with_gradient
from .targets import Targets, match_matrix


class SigLipLoss(nn.Module):
    r"""Pairwise sigmoid loss (Zhai et al., 2023, section 3.2).

    .. math:: -\frac{1}{n_I} \sum_{ij} \log\sigma\big(z_{ij} (s\,a_i \cdot b_j + b)\big)

    where `z` is 1 for a pair that belongs together and -1 otherwise.

    Example:
        >>> loss = SigLipLoss()(image_embeds, text_embeds, scale, model.get_logit_bias())
    """

    def forward(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        targets: Targets | None = None,
    ) -> torch.Tensor:
        """The loss, a scalar.

        Args:
            image_embeds: this process's images, of length 1, (B_image, P).
            text_embeds: this process's texts, of length 1, (B_text, P).
            logit_scale: the factor on the cosine similarities, already exponentiated.
            logit_bias: added to the logits.
            targets: ids or a matrix, as `match_matrix` takes them.
        """
        image_embeds = gather_with_gradient(image_embeds)
        text_embeds = gather_with_gradient(text_embeds)
        logits_IT = logit_scale * image_embeds @ text_embeds.t()
        if logit_bias is not None:
            logits_IT = logits_IT + logit_bias
        signs_IT = 2 * match_matrix(targets, len(image_embeds), logits_IT.device) - 1
        return -nn.functional.logsigmoid(signs_IT * logits_IT).sum() / len(image_embeds)
