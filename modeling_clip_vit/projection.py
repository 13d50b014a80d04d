"""From pooled outputs into the joint space, and from there to logits.

Shape legend: `B` batch, `P` projection.
"""

import torch
from torch import nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig

from .configuration_clip_vit import ClipVitConfig


def build_projection(config: PreTrainedConfig, size: int) -> nn.Module:
    """The projection of a tower's pooled output into the joint space: (B, size) to (B, P).

    Args:
        config: of the tower, of any model type.
        size: of the pooled output.
    """
    if config.projection_type == "none":
        return nn.Identity()
    bias = config.projection_bias
    if config.projection_type == "linear":
        return nn.Linear(size, config.projection_dim, bias=bias)
    # Checkpoints from before these fields lack them where the tower is of another type.
    hidden_size = getattr(config, "projection_hidden_size", None) or size
    hidden_bias = getattr(config, "projection_hidden_bias", None)
    return nn.Sequential(
        nn.Linear(size, hidden_size, bias=bias if hidden_bias is None else hidden_bias),
        ACT2FN[getattr(config, "hidden_act", "gelu")],
        nn.Linear(hidden_size, config.projection_dim, bias=bias),
    )


class ClipVitSimilarity(nn.Module):
    """Logits from normalised embeddings: a learned scale, and a bias where the loss has one.

    The scale is kept as its logarithm, so that a step changes it by a ratio and it stays above 0
    (Radford et al., 2021, section 2.5).
    """

    def __init__(self, config: ClipVitConfig):
        super().__init__()
        self.config = config
        # One element each rather than none: sharded training cannot split a scalar.
        self.logit_scale = nn.Parameter(torch.empty(1))
        has_bias = config.logit_bias_init_value is not None
        self.logit_bias = nn.Parameter(torch.empty(1)) if has_bias else None

    def initialize(self):
        """Set scale and bias as configured."""
        init.constant_(self.logit_scale, self.config.logit_scale_init_value)
        value = self.config.logit_bias_init_value
        if self.logit_bias is not None and value is not None:
            init.constant_(self.logit_bias, value)

    def get_scale(self) -> torch.Tensor:
        """The factor on the cosine similarities, a scalar: the one place that exponentiates."""
        return self.logit_scale.exp().squeeze(0)

    def get_bias(self) -> torch.Tensor | None:
        """The bias on the logits, a scalar, or None where the configuration has none."""
        return None if self.logit_bias is None else self.logit_bias.squeeze(0)

    @torch.no_grad()
    def clamp_scale(self):
        """Reduce the scale to `config.logit_scale_max`, if it is larger."""
        if self.config.logit_scale_max is not None:
            self.logit_scale.clamp_(max=torch.tensor(self.config.logit_scale_max).log().item())

    def forward(self, text_embeds: torch.Tensor, image_embeds: torch.Tensor) -> torch.Tensor:
        """Logits (B_text, B_image)."""
        image_embeds = image_embeds.to(text_embeds.device)
        scale = self.get_scale().to(text_embeds.device)
        logits_per_text = text_embeds @ image_embeds.t() * scale
        bias = self.get_bias()
        if bias is None:
            return logits_per_text
        return logits_per_text + bias.to(logits_per_text.device)
