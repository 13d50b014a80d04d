"""The encoder block that both towers stack, and the stack.

Shape legend: `B` batch, `L` sequence, `D` hidden, `K` key/value heads, `A` head size.
"""

from typing import cast

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from timm.layers import LayerScale as TimmLayerScale
from torch import nn
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer

from .attention import build_attention
from .configuration_clip_vit import TowerConfig
from .feed_forward import build_feed_forward
from .normalization import build_norm


class ClipVitEncoderLayer(GradientCheckpointingLayer):
    """Two branches, attention and feed-forward, each added to the residual stream.

    With `norm_placement` `pre` (Xiong et al., 2020, section 3), a branch is
    `x + drop_path(scale(f(norm(x))))`; with `post` (Vaswani et al., 2017, section 3.1),
    `norm(x + drop_path(scale(f(x))))`; with `sandwich` (Ding et al., 2021, section 2.4),
    `x + drop_path(scale(norm_out(f(norm(x)))))`.

    Args:
        config: of the tower.
        drop_path_rate: how often a branch is skipped in training.
        layer_idx: number of the block.
    """

    def __init__(self, config: TowerConfig, drop_path_rate: float, layer_idx: int = 0):
        super().__init__()
        self.placement = config.norm_placement
        self.norm1 = build_norm(config)
        self.attention = build_attention(config, layer_idx)
        self.norm2 = build_norm(config)
        self.feed_forward = build_feed_forward(config)
        is_sandwich = self.placement == "sandwich"
        self.norm1_out = build_norm(config) if is_sandwich else None
        self.norm2_out = build_norm(config) if is_sandwich else None
        self.scale1, self.scale2 = build_scale(config), build_scale(config)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

    def initialize(self):
        """Smaller output weights in deeper models.

        Each block adds to the residual stream twice: this keeps its variance independent of depth
        (Radford et al., 2019, section 2.3).
        """
        config = self.attention.config
        std = config.initializer_range * (2 * config.num_hidden_layers) ** -0.5
        init.normal_(self.attention.out_proj.weight, std=std)
        init.normal_(self.feed_forward.fc2.weight, std=std)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        first_value: torch.Tensor | None = None,
        token_mask: torch.Tensor | None = None,
        rotation: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend, then feed forward.

        Args:
            hidden_states: (B, L, D).
            attention_mask: what Transformers' mask functions make for the chosen kernel, or None.
            first_value: values of the first block, (B, K, L, A), for those after it, with
                `value_residual`.
            token_mask: 1 for a token, 0 for padding, for norms that look at several tokens.
            rotation: what `attention.rotate` takes of rotary positions, or None.

        Returns:
            The new hidden states (B, L, D); and from the first block its values (B, K, L, A), with
            `value_residual`, otherwise None.
        """
        attended_BLD, _, value_BKLA = self.attention(
            self._enter(hidden_states, self.norm1, token_mask),
            attention_mask,
            rotation=rotation,
            first_value=first_value,
            **kwargs,
        )
        hidden_states = self._add(
            hidden_states, attended_BLD, self.norm1, self.norm1_out, self.scale1, token_mask
        )
        processed_BLD = self.feed_forward(self._enter(hidden_states, self.norm2, token_mask))
        hidden_states = self._add(
            hidden_states, processed_BLD, self.norm2, self.norm2_out, self.scale2, token_mask
        )
        return hidden_states, value_BKLA

    def _enter(
        self, hidden_BLD: torch.Tensor, norm: nn.Module, token_mask: torch.Tensor | None
    ) -> torch.Tensor:
        return hidden_BLD if self.placement == "post" else norm(hidden_BLD, token_mask)

    def _add(
        self,
        hidden_BLD: torch.Tensor,
        branch_BLD: torch.Tensor,
        norm: nn.Module,
        norm_out: nn.Module | None,
        scale: nn.Module,
        token_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        if norm_out is not None:
            branch_BLD = norm_out(branch_BLD, token_mask)
        hidden_BLD = hidden_BLD + self.drop_path(scale(branch_BLD))
        return norm(hidden_BLD, token_mask) if self.placement == "post" else hidden_BLD


class LayerScale(TimmLayerScale):
    """A learned factor for each feature (Touvron et al., 2021, section 2)."""

    def initialize(self):
        """All factors to the configured value."""
        init.constant_(self.gamma, self.init_values)


def build_scale(config: TowerConfig) -> nn.Module:
    """A learned factor for each feature of a branch, or none."""
    if config.layer_scale_init_value is None:
        return nn.Identity()
    return LayerScale(config.hidden_size, config.layer_scale_init_value)


class ClipVitEncoder(nn.Module):
    """`config.num_hidden_layers` blocks, whose drop-path rate grows with depth."""

    def __init__(self, config: TowerConfig):
        super().__init__()
        rates = cast(
            list[float], calculate_drop_path_rates(config.drop_path_rate, config.num_hidden_layers)
        )
        self.layers = nn.ModuleList(
            ClipVitEncoderLayer(config, rate, layer_idx) for layer_idx, rate in enumerate(rates)
        )

    def forward(
        self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        first_value: torch.Tensor | None = None
        for layer in self.layers:
            # Positional: reentrant checkpoints send no gradient through a keyword. Later blocks do
            # not pass it on: FSDP2 would gather their weights anew for its gradient.
            hidden_states, value = layer(hidden_states, attention_mask, first_value, **kwargs)
            first_value = value if first_value is None else first_value
        return hidden_states
