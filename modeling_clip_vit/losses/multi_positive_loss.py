"""Softmax contrast where an image or a text may belong to several."""

import torch
from torch import nn

from .gather import gather_with_gradient
from .targets import Targets, match_matrix


class MultiPositiveLoss(nn.Module):
    r"""UniCL's loss (Yang et al., 2022, section 3.2; Khosla et al., 2020, equation 2).

    .. math:: \tfrac12 \sum_{d \in \{I \to T,\, T \to I\}} \frac{1}{n_d} \sum_i
              \frac{-1}{|P_i|} \sum_{j \in P_i} \log\mathrm{softmax}_j(s\,a_i \cdot b_j)

    where `P_i` are the positives of row i, those with the same id. With one positive a row it is
    `ClipLoss`. The same call contrasts images with images: other views of a concept are texts then.

    Example:
        >>> targets = (image_ids, caption_ids)  # two images of concept 7 and its caption have id 7
        >>> loss = MultiPositiveLoss()(image_embeds, text_embeds, scale, targets=targets)
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
            logit_bias: added to the logits; a constant does not change a softmax.
            targets: ids or a matrix, as `match_matrix` takes them. Rows without a positive are
                left out.
        """
        image_embeds = gather_with_gradient(image_embeds)
        text_embeds = gather_with_gradient(text_embeds)
        logits_IT = logit_scale * image_embeds @ text_embeds.t()
        match_IT = match_matrix(targets, len(image_embeds), logits_IT.device)
        return (one_way(logits_IT, match_IT) + one_way(logits_IT.t(), match_IT.t())) / 2


def one_way(logits: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
    """Mean over rows of the mean over a row's positives of -log softmax."""
    positives = match.sum(dim=1)
    per_row = -(logits.log_softmax(dim=1) * match).sum(dim=1) / positives.clamp(min=1e-9)
    return per_row[positives > 0].mean()
