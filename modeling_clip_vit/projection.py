"""From pooled outputs into the joint space, and from there to logits.

Shape legend: `B` batch, `P` projection.
"""

import torch
from torch import nn
from transformers import PretrainedConfig
from transformers import initialization as init
from transformers.activations import ACT2FN

from .configuration_clip_vit import ClipVitConfig


def build_projection(config: PretrainedConfig, size: int) -> nn.Module:
    """What brings a tower's pooled output into the joint space: (B, size) to (B, P)."""
    if config.projection_type == "none":
        return nn.Identity()
    bias = config.projection_bias
    if config.projection_type == "linear":
        return nn.Linear(size, config.projection_dim, bias=bias)
    return nn.Sequential(
        nn.Linear(size, size, bias=bias),
        ACT2FN[getattr(config, "hidden_act", "gelu")],
        nn.Linear(size, config.projection_dim, bias=bias),
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
        if config.logit_bias_init_value is not None:
            self.logit_bias = nn.Parameter(torch.empty(1))

    def initialize(self):
        """Scale and bias as configured."""
        init.constant_(self.logit_scale, self.config.logit_scale_init_value)
        if self.config.logit_bias_init_value is not None:
            init.constant_(self.logit_bias, self.config.logit_bias_init_value)

    def get_scale(self) -> torch.Tensor:
        """The factor on the cosine similarities, a scalar: the one place that exponentiates."""
        return self.logit_scale.exp().squeeze(0)

    def get_bias(self) -> torch.Tensor | None:
        """The bias on the logits, a scalar, or None where the configuration has none."""
        return self.logit_bias.squeeze(0) if hasattr(self, "logit_bias") else None

    @torch.no_grad()
    def clamp_scale(self):
        """Bring the scale back to `config.logit_scale_max`, if it has left it."""
        if self.config.logit_scale_max is not None:
            self.logit_scale.clamp_(max=torch.tensor(self.config.logit_scale_max).log().item())

    def forward(self, text_embeds_BP: torch.Tensor, image_embeds_BP: torch.Tensor) -> torch.Tensor:
        """Logits (B_text, B_image)."""
        image_embeds_BP = image_embeds_BP.to(text_embeds_BP.device)
        scale = self.get_scale().to(text_embeds_BP.device)
        logits_per_text = text_embeds_BP @ image_embeds_BP.t() * scale
        bias = self.get_bias()
        return (
            logits_per_text if bias is None else logits_per_text + bias.to(logits_per_text.device)
        )
