"""The feed-forward half of an encoder block, plain or gated.

Shape legend: `B` batch, `L` sequence, `D` hidden, `F` feed-forward.
"""

import torch
from torch import nn
from transformers.activations import ACT2FN

from .configuration_clip_vit import TowerConfig


class ClipVitMLP(nn.Module):
    """Two linear layers with an activation between them (Vaswani et al., 2017, section 3.3).

    `fc2(dropout(act(fc1(x))))`, from (B, L, D) to (B, L, D).
    """

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_BLF = self.activation(self.fc1(hidden_states))
        return self.fc2(self.dropout(hidden_BLF))


class ClipVitGatedMLP(nn.Module):
    """A gated linear unit (Shazeer, 2020, section 2): SwiGLU with `silu`, GEGLU with `gelu`.

    `fc2(dropout(act(gate) * value))`, where one product computes gate and value: (B, L, D) to
    (B, L, D).
    """

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.activation = ACT2FN[config.hidden_act]
        size = config.intermediate_size
        if config.adjust_glu_size:
            # Three matrices instead of two: as many parameters as ungated (section 2), and a
            # multiple of 8 for the kernels.
            size = -(-2 * size // 24) * 8
        self.fc1 = nn.Linear(config.hidden_size, 2 * size, bias=config.mlp_bias)
        self.fc2 = nn.Linear(size, config.hidden_size, bias=config.mlp_bias)
        self.dropout = nn.Dropout(config.hidden_dropout)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        gate_BLF, value_BLF = self.fc1(hidden_states).chunk(2, dim=-1)
        return self.fc2(self.dropout(self.activation(gate_BLF) * value_BLF))


#: `mlp_type` -> the module that computes it.
FEED_FORWARDS: dict[str, type["ClipVitMLP | ClipVitGatedMLP"]] = {
    "mlp": ClipVitMLP,
    "glu": ClipVitGatedMLP,
}


def build_feed_forward(config: TowerConfig) -> ClipVitMLP | ClipVitGatedMLP:
    """Build the feed-forward module that `config.mlp_type` names: (B, L, D) to (B, L, D)."""
    return FEED_FORWARDS[config.mlp_type](config)
