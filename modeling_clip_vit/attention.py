"""Self-attention, chosen by `config.attention_type`.

To add a type: write a subclass of `ClipVitAttention`, and add it to `ATTENTIONS` and its name to
`ATTENTION_TYPES` in the configuration.

Shape legend: `B` batch, `L` sequence, `D` hidden, `H` query heads, `K` key/value heads,
`A` head size, `E` half of it.
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
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
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
    key_BHLA = key.repeat_interleave(groups, dim=1)
    value_BHLA = value.repeat_interleave(groups, dim=1)
    scores_BHLL = query @ key_BHLA.transpose(-1, -2) * scaling
    if attention_mask is not None:
        scores_BHLL = scores_BHLL + attention_mask
    # Softmax in float32: in half precision, the sum over a long sequence loses digits.
    weights_BHLL = scores_BHLL.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    weights_BHLL = nn.functional.dropout(weights_BHLL, p=dropout, training=module.training)
    attended_BLHA = (weights_BHLL @ value_BHLA).transpose(1, 2).contiguous()
    return attended_BLHA, weights_BHLL


def rotate(states: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Turn pairs of features by the angles of their token's place (Su et al., 2021, section 3.2).

    Args:
        states: queries or keys.
        rotation: cosine and sine of the angles, each (B or 1, 1, L, A / 2), float32; feature
            i is paired with feature i + A / 2.
    """
    cos_B1LE, sin_B1LE = rotation
    first, second = upcast(states).chunk(2, dim=-1)
    turned = (first * cos_B1LE - second * sin_B1LE, second * cos_B1LE + first * sin_B1LE)
    return torch.cat(turned, dim=-1).to(states.dtype)


class ClipVitAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al., 2017, section 3.2), by Transformers' kernels.

    One product makes queries, keys and values. Fewer key/value heads than query heads give
    grouped-query attention (Ainslie et al., 2023), one gives multi-query (Shazeer, 2019). With
    `qk_norm`, queries and keys are normalised within each head (Dehghani et al., 2023, section 2).

    With `attention_gate`, what a head attends to is multiplied by a sigmoid of a linear layer over
    the token that attends: one number for each head or for each feature (Qiu et al., 2025, section
    2.2). It starts near one half. With `value_residual`, the values of a block are mixed with the
    first block's (Zhou et al., 2024, section 3): `value_share` of their own, one half at first.

    Other types of attention are subclasses: `attend` is what weighs the values.

    Args:
        config: of the tower.
        layer_idx: number of the block; the first one has no values to mix its own with.
    """

    def __init__(self, config: TowerConfig, layer_idx: int = 0):
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

        width, kv_width = (
            heads * self.head_dim for heads in (self.num_heads, self.num_key_value_heads)
        )
        has_bias = config.attention_q_bias, config.attention_k_bias, config.attention_v_bias
        self.qkv_proj = nn.Linear(config.hidden_size, width + 2 * kv_width, bias=all(has_bias))
        self.out_proj = nn.Linear(width, config.hidden_size, bias=bool(config.attention_out_bias))
        # Separate biases only where some of queries, keys and values have one, and not all.
        self.q_bias, self.k_bias, self.v_bias = (
            nn.Parameter(torch.zeros(size)) if has and not all(has_bias) else None
            for size, has in zip((width, kv_width, kv_width), has_bias, strict=True)
        )
        if config.qk_norm:
            # Other norms than these two mix what belongs to different heads or tokens.
            norm = NORM_LAYERS["rmsnorm" if config.norm_type == "rmsnorm" else "layernorm"]
            self.q_norm = norm(config, self.head_dim)
            self.k_norm = norm(config, self.head_dim)
        gates = {"none": 0, "headwise": self.num_heads, "elementwise": width}[config.attention_gate]
        self.gate_proj = (
            nn.Linear(config.hidden_size, gates, bias=bool(config.attention_gate_bias))
            if gates
            else None
        )
        self.gives_values = config.value_residual and layer_idx == 0
        # Of one dimension: FSDP2 does not shard a scalar.
        self.value_share = (
            nn.Parameter(torch.full((1,), 0.5)) if config.value_residual and layer_idx > 0 else None
        )

    def initialize(self):
        """Set the separate biases of queries, keys and values to 0, the share of values to 1/2."""
        for bias in (self.q_bias, self.k_bias, self.v_bias):
            if bias is not None:
                init.zeros_(bias)
        if self.value_share is not None:
            init.constant_(self.value_share, 0.5)

    def project(
        self,
        hidden_states: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Queries (B, H, L, A), and keys and values (B, K, L, A), with norm and rotation."""
        heads = self.num_heads, self.num_key_value_heads, self.num_key_value_heads
        biases = self.q_bias, self.k_bias, self.v_bias
        states = self.qkv_proj(hidden_states).unflatten(-1, (-1, self.head_dim))
        # Split while a token's heads lie together: the backward pass joins them again.
        parts = (part.transpose(1, 2) for part in states.split(heads, dim=2))
        query_BHLA, key_BKLA, value_BKLA = map(add_bias, parts, biases)
        if self.config.qk_norm:
            query_BHLA, key_BKLA = self.q_norm(query_BHLA), self.k_norm(key_BKLA)
        if rotation is not None:
            query_BHLA, key_BKLA = rotate(query_BHLA, rotation), rotate(key_BKLA, rotation)
        return query_BHLA, key_BKLA, value_BKLA

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        is_causal: bool,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weigh the values by a softmax over the keys, with the kernel of `attn_implementation`.

        Args:
            query: (B, H, L, A).
            key, value: (B, K, L, A).
            attention_mask: what Transformers' mask functions make for the kernel, or None.
            is_causal: whether a token sees only those before it, if no mask says so.

        Returns:
            The attended values (B, L, H, A), and the weights (B, H, L, L), or None from a fused
            kernel.
        """
        kernel: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        return kernel(
            self,
            query,
            key,
            value,
            attention_mask,
            is_causal=is_causal,
            scaling=self.scaling,
            dropout=self.config.attention_dropout if self.training else 0.0,
            **kwargs,
        )

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        is_causal: bool | None = None,
        rotation: tuple[torch.Tensor, torch.Tensor] | None = None,
        first_value: torch.Tensor | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Attend within each sequence.

        Args:
            hidden_states: (B, L, D).
            attention_mask: what Transformers' mask functions make for the chosen kernel, or None.
            is_causal: whether a token sees only those before it; as configured when None.
            rotation: what `rotate` takes of rotary positions, or None.
            first_value: values of the first block, (B, K, L, A), with `value_residual`.

        Returns:
            The new hidden states (B, L, D); the weights (B, H, L, L) or None, as `attend` returns
            them; and the values (B, K, L, A) that later blocks take as `first_value`, or None.
        """
        query_BHLA, key_BKLA, value_BKLA = self.project(hidden_states, rotation)
        if self.value_share is not None and first_value is not None:
            share = self.value_share.to(value_BKLA.dtype)
            value_BKLA = first_value + share * (value_BKLA - first_value)
        attended_BLHA, weights_BHLL = self.attend(
            query_BHLA,
            key_BKLA,
            value_BKLA,
            attention_mask,
            self.is_causal if is_causal is None else is_causal,
            **kwargs,
        )
        if self.gate_proj is not None:
            # A number for each head, or for each of its features.
            gate_BLHA = self.gate_proj(hidden_states).sigmoid().unflatten(-1, (self.num_heads, -1))
            attended_BLHA = attended_BLHA * gate_BLHA
        return (
            self.out_proj(attended_BLHA.flatten(-2)),
            weights_BHLL,
            value_BKLA if self.gives_values else None,
        )


class SigmoidAttention(ClipVitAttention):
    """A sigmoid of each score instead of a softmax over all (Ramapuram et al., 2024, section 2).

    Keys do not compete, so no weight depends on how many others are high. The bias `-log(n)`,
    where a query sees n keys, keeps the sum of the weights near 1 at the start. It is written out
    in torch, because the kernels of `attn_implementation` compute a softmax.
    """

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        is_causal: bool,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Weigh the values by sigmoids; shapes as in `ClipVitAttention.attend`.

        Raises:
            ValueError: the masks of `attn_implementation` do not say which key each query sees.
        """
        implementation = self.config._attn_implementation
        if implementation not in ("eager", "sdpa"):
            raise ValueError(
                f"attn_implementation={implementation!r} is not allowed with "
                "attention_type='sigmoid': use eager or sdpa"
            )
        length = query.shape[2]
        if attention_mask is None:
            sees_BHLL = query.new_ones(1, 1, length, length, dtype=torch.bool)
            sees_BHLL = sees_BHLL.tril() if is_causal else sees_BHLL
        else:
            # For sdpa it is boolean; for eager it is added to the scores, so a visible key has 0.
            is_boolean = attention_mask.dtype == torch.bool
            sees_BHLL = attention_mask if is_boolean else attention_mask == 0
        # A query of padding may see no key: count one, to keep the logarithm finite.
        counts_BHL1 = sees_BHLL.sum(dim=-1, keepdim=True).clamp(min=1)
        key_BHLA = key.repeat_interleave(self.num_key_value_groups, dim=1)
        value_BHLA = value.repeat_interleave(self.num_key_value_groups, dim=1)
        scores_BHLL = upcast(query @ key_BHLA.transpose(-1, -2)) * self.scaling
        weights_BHLL = (scores_BHLL - upcast(counts_BHL1).log()).sigmoid()
        weights_BHLL = weights_BHLL.masked_fill(~sees_BHLL, 0).to(query.dtype)
        weights_BHLL = nn.functional.dropout(
            weights_BHLL, p=self.config.attention_dropout, training=self.training
        )
        return (weights_BHLL @ value_BHLA).transpose(1, 2).contiguous(), weights_BHLL


#: `attention_type` -> the module that computes it.
ATTENTIONS: dict[str, type[ClipVitAttention]] = {
    "softmax": ClipVitAttention,
    "sigmoid": SigmoidAttention,
}


def build_attention(config: TowerConfig, layer_idx: int) -> ClipVitAttention:
    """Build the attention that `config.attention_type` names: (B, L, D) to (B, L, D)."""
    return ATTENTIONS[config.attention_type](config, layer_idx=layer_idx)


def add_bias(states: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """Add a bias (heads * A,), or none, to states of several heads (B, heads, L, A)."""
    if bias is None:
        return states
    return states + bias.unflatten(0, (states.shape[1], 1, states.shape[3]))
