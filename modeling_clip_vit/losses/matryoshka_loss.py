"""A loss at several widths of the embedding, so that its first dimensions are useful alone."""

import torch
from torch import nn
from torch.nn.functional import normalize

from .targets import Targets


class MatryoshkaLoss(nn.Module):
    r"""The weighted mean of a loss over nested widths (Kusupati et al., 2022, section 3).

    .. math:: \frac{\sum_d w_d \, \mathcal L(a_{:d} / |a_{:d}|,\; b_{:d} / |b_{:d}|)}{\sum_d w_d}

    Args:
        loss: the loss of one width.
        dims: the widths, such as `[64, 128, 512]`.
        weights: weight of each width; all equal when None.

    Example:
        >>> loss = MatryoshkaLoss(ClipLoss(), dims=[64, 512])(image_embeds, text_embeds, scale)
    """

    def __init__(self, loss: nn.Module, dims: list[int], weights: list[float] | None = None):
        super().__init__()
        self.loss = loss
        self.dims = list(dims)
        self.weights = [1.0] * len(self.dims) if weights is None else list(weights)
        if not self.dims or min(self.dims) < 1 or len(self.weights) != len(self.dims):
            raise ValueError(
                f"dims={self.dims} with weights={self.weights} is not allowed: give at least one "
                "width of at least 1, and as many weights"
            )

    def forward(
        self,
        image_embeds: torch.Tensor,
        text_embeds: torch.Tensor,
        logit_scale: torch.Tensor,
        logit_bias: torch.Tensor | None = None,
        targets: Targets | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """The loss, a scalar; arguments as in `ContrastiveLoss`.

        Raises:
            ValueError: the embeddings are narrower than one of the widths.
        """
        if max(self.dims) > image_embeds.shape[1]:
            raise ValueError(
                f"dims={self.dims} is not allowed: the embeddings have {image_embeds.shape[1]} "
                "numbers"
            )
        total = 0.0
        for dim, weight in zip(self.dims, self.weights, strict=True):
            images, texts = (
                normalize(embeds[:, :dim], dim=-1) for embeds in (image_embeds, text_embeds)
            )
            value = self.loss(images, texts, logit_scale, logit_bias, targets, **kwargs)
            total = total + weight / sum(self.weights) * value
        return torch.as_tensor(total)
