"""Self-attention through Transformers' attention interface.

Shape legend: `B` batch, `L` sequence, `D` hidden, `H` query heads, `K` key/value heads,
`A` head size.
"""

from collections.abc import Callable

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


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


class ClipVitAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, section 3.2).

    One product makes queries, keys and values. Fewer key/value heads than query heads give
    grouped-query attention (Ainslie et al., 2023), one gives multi-query (Shazeer, 2019).
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.head_dim = config.head_dim
        self.num_heads = config.num_attention_heads
        self.num_key_value_heads = config.num_key_value_heads
        self.num_key_value_groups = self.num_heads // self.num_key_value_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = getattr(config, "is_causal", False)

        heads = self.num_heads + 2 * self.num_key_value_heads
        bias = config.attention_bias
        self.qkv_proj = nn.Linear(config.hidden_size, heads * self.head_dim, bias=bias)
        self.out_proj = nn.Linear(self.num_heads * self.head_dim, config.hidden_size, bias=bias)

    def forward(
        self,
        hidden_BLD: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        is_causal: bool | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend within each sequence.

        Args:
            hidden_BLD: (B, L, D).
            attention_mask: what Transformers' mask functions make for the chosen kernel, or None.
            is_causal: whether a token sees only those before it; as configured when None.

        Returns:
            The new hidden states (B, L, D), and the weights (B, H, L, L) from the eager kernel or
            None from a fused one.
        """
        qkv_BLXA = self.qkv_proj(hidden_BLD).unflatten(-1, (-1, self.head_dim))
        query_BHLA, key_BKLA, value_BKLA = qkv_BLXA.transpose(1, 2).split(
            (self.num_heads, self.num_key_value_heads, self.num_key_value_heads), dim=1
        )
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
