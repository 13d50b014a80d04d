"""Self-attention through Transformers' attention interface.

Shape legend: `B` batch, `L` sequence, `D` hidden, `H` query heads, `K` key/value heads,
`A` head size, `R` half of it.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .configuration_clip_vit import TowerConfig
from .normalization import NORM_LAYERS, upcast


def eager_attention_forward(
    module: "ClipVitAttention",
    query_BHLA: torch.Tensor,
    key_BKLA: torch.Tensor,
    value_BKLA: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention written out: the reference that the fused kernels must equal.

    Args:
        attention_mask: added to the scores, (B, 1, L, L), or None.
        scaling: the factor of the scores, usually A ** -0.5.

    Returns:
        The attended values (B, L, H, A) and the attention weights (B, H, L, L).
    """
    groups = module.num_key_value_groups
    key_BHLA = key_BKLA.repeat_interleave(groups, dim=1)
    value_BHLA = value_BKLA.repeat_interleave(groups, dim=1)
    scores_BHLL = query_BHLA @ key_BHLA.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores_BHLL = scores_BHLL + attention_mask
    # Softmax in float32: in half precision, the sum over a long sequence loses digits.
    weights_BHLL = scores_BHLL.softmax(dim=-1, dtype=torch.float32).to(query_BHLA.dtype)
    weights_BHLL = nn.functional.dropout(weights_BHLL, p=dropout, training=module.training)
    attended_BLHA = (weights_BHLL @ value_BHLA).transpose(1, 2).contiguous()
    return attended_BLHA, weights_BHLL


def rotate(
    states_BHLA: torch.Tensor, rotation_B1LR: tuple[torch.Tensor, torch.Tensor]
) -> torch.Tensor:
    """Turn pairs of features by the angles of their token's place (Su et al., 2021, section 3.2).

    Args:
        states_BHLA: queries or keys.
        rotation_B1LR: cosine and sine of the angles, each (B or 1, 1, L, A / 2), float32; feature
            i is paired with feature i + A / 2.
    """
    cos_B1LR, sin_B1LR = rotation_B1LR
    first, second = upcast(states_BHLA).chunk(2, dim=-1)
    turned = (first * cos_B1LR - second * sin_B1LR, second * cos_B1LR + first * sin_B1LR)
    return torch.cat(turned, dim=-1).to(states_BHLA.dtype)


class ClipVitAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, section 3.2).

    One product makes queries, keys and values. Fewer key/value heads than query heads give
    grouped-query attention (Ainslie et al., 2023), one gives multi-query (Shazeer, 2019). With
    `qk_norm`, queries and keys are normalised within each head (Dehghani et al., 2023, section 2).
    """

    def __init__(self, config: TowerConfig):
        super().__init__()
        self.config = config
        # The configuration fills them in.
        assert config.head_dim
        assert config.num_key_value_heads
        self.head_dim = config.head_dim
        self.num_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.num_key_value_groups = self.num_heads // self.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = getattr(config, "is_causal", False)

        heads = self.num_heads + 2 * self.num_key_value_heads
        width = self.num_heads * self.head_dim
        biases = config.attention_q_bias, config.attention_k_bias, config.attention_v_bias
        self.qkv_proj = nn.Linear(config.hidden_size, heads * self.head_dim, bias=all(biases))
        self.out_proj = nn.Linear(width, config.hidden_size, bias=bool(config.attention_out_bias))
        #: Sizes of the biases where some of queries, keys and values have one, and not all.
        self.bias_sizes: dict[str, int] = {}
        if any(biases) and not all(biases):
            kv_width = self.num_key_value_heads * self.head_dim
            self.bias_sizes = {"q_bias": width, "k_bias": kv_width, "v_bias": kv_width}
            for (name, size), has_bias in zip(self.bias_sizes.items(), biases, strict=True):
                if has_bias:
                    self.register_parameter(name, nn.Parameter(torch.zeros(size)))
        if config.qk_norm:
            # Other norms than these two mix what belongs to different heads or tokens.
            norm = NORM_LAYERS["rmsnorm" if config.norm_type == "rmsnorm" else "layernorm"]
            self.q_norm = norm(config, self.head_dim)
            self.k_norm = norm(config, self.head_dim)

    def initialize(self):
        """Biases of queries, keys and values apart: 0."""
        for name in self.bias_sizes:
            if hasattr(self, name):
                init.zeros_(getattr(self, name))

    def forward(
        self,
        hidden_BLD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        is_causal: bool | None = None,
        rotation_B1LR: tuple[torch.Tensor, torch.Tensor] | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend within each sequence.

        Args:
            hidden_BLD: (B, L, D).
            attention_mask: what Transformers' mask functions make for the chosen kernel, or None.
            is_causal: whether a token sees only those before it; as configured when None.
            rotation_B1LR: what `rotate` takes of rotary positions, or None for none.

        Returns:
            The new hidden states (B, L, D), and the weights (B, H, L, L) from the eager kernel or
            None from a fused one.
        """
        qkv_BLX = self.qkv_proj(hidden_BLD)
        if self.bias_sizes:
            biases = [
                getattr(self, name) if hasattr(self, name) else qkv_BLX.new_zeros(size)
                for name, size in self.bias_sizes.items()
            ]
            qkv_BLX = qkv_BLX + torch.cat(biases)
        query_BHLA, key_BKLA, value_BKLA = (
            qkv_BLX.unflatten(-1, (-1, self.head_dim))
            .transpose(1, 2)
            .split((self.num_heads, self.num_key_value_heads, self.num_key_value_heads), dim=1)
        )
        if self.config.qk_norm:
            query_BHLA, key_BKLA = self.q_norm(query_BHLA), self.k_norm(key_BKLA)
        if rotation_B1LR is not None:
            query_BHLA = rotate(query_BHLA, rotation_B1LR)
            key_BKLA = rotate(key_BKLA, rotation_B1LR)
        attend: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        attended_BLHA, weights_BHLL = attend(
            self,
            query_BHLA,
            key_BKLA,
            value_BKLA,
            attention_mask,
            is_causal=self.is_causal if is_causal is None else is_causal,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )
        return self.out_proj(attended_BLHA.flatten(-2)), weights_BHLL
