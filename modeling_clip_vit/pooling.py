"""From a sequence of hidden states to one vector, chosen by `config.pooling`.

Shape legend: `B` batch, `L` sequence, `D` hidden, `H` query heads, `A` head size.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import nn
from transformers import initialization as init

from .configuration_clip_vit import TowerConfig
from .feed_forward import build_feed_forward
from .normalization import build_norm


class Pooling(Protocol):
    """A function, or a module with weights, that pools a sequence."""

    def __call__(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        is_end: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Pool each sequence: (B, L, D) to (B, D), or `pool_flatten`'s (B, L * D).

        Args:
            hidden_states: (B, L, D).
            mask: 1 for a token, 0 for padding, (B, L); None if every token counts.
            is_end: whether a token ends its text, (B, L), for `pool_eos`.
        """


def pool_cls(
    hidden_states: torch.Tensor,
    mask: torch.Tensor | None = None,
    is_end: torch.Tensor | None = None,
) -> torch.Tensor:
    """The first token's state (BERT's [CLS]; Dosovitskiy et al., 2021, section 3.1): (B, D)."""
    if mask is None:
        return hidden_states[:, 0]
    return take_token(hidden_states, mask.int().argmax(dim=1))


def pool_mean(
    hidden_states: torch.Tensor,
    mask: torch.Tensor | None = None,
    is_end: torch.Tensor | None = None,
) -> torch.Tensor:
    """The mean over tokens, padding left out: (B, D)."""
    if mask is None:
        return hidden_states.mean(dim=1)
    weights_BL1 = mask.to(hidden_states.dtype).unsqueeze(-1)
    return (hidden_states * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1)


def pool_flatten(
    hidden_states: torch.Tensor,
    mask: torch.Tensor | None = None,
    is_end: torch.Tensor | None = None,
) -> torch.Tensor:
    """All tokens side by side, which keeps where things are: (B, L * D)."""
    return hidden_states.flatten(1)


def pool_last(
    hidden_states: torch.Tensor,
    mask: torch.Tensor | None = None,
    is_end: torch.Tensor | None = None,
) -> torch.Tensor:
    """The last token's state, padding left out (as causal language models are pooled): (B, D)."""
    return take_token(hidden_states, last_token(hidden_states, mask))


def pool_eos(
    hidden_states: torch.Tensor,
    mask: torch.Tensor | None = None,
    is_end: torch.Tensor | None = None,
) -> torch.Tensor:
    """The first end-of-text token's state (Radford et al., 2021, section 2.4): (B, D).

    A text without an end-of-text token (it was cut) gives its last token's state.
    """
    assert is_end is not None
    if mask is not None:
        is_end = is_end & mask.bool()
    first_end_B = is_end.int().argmax(dim=1)
    last_B = last_token(hidden_states, mask)
    return take_token(hidden_states, torch.where(is_end.any(dim=1), first_end_B, last_B))


def ends_of_texts(input_ids: torch.Tensor, eos_token_id: int | None) -> torch.Tensor | None:
    """Whether a token ends its text, (B, L); None if no token does."""
    return None if eos_token_id is None else input_ids.eq(eos_token_id)


def last_token(hidden_states: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Index of the last token that is not padding, (B,)."""
    batch, length, _ = hidden_states.shape
    if mask is None:
        return torch.full((batch,), length - 1, device=hidden_states.device)
    # A row of padding alone has no last token; any index within range will do.
    return length - 1 - mask.flip(1).int().argmax(dim=1)


def take_token(hidden_states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """The state of token `index[b]` of each sequence b: (B, D)."""
    rows_B = torch.arange(hidden_states.shape[0], device=hidden_states.device)
    return hidden_states[rows_B, index]


class ClipVitAttentionPooling(nn.Module):
    """Multi-head attention pooling, MAP (Zhai et al., 2022, section 3.2; Lee et al., 2019).

    One learned query attends to all tokens, and a feed-forward branch follows: (B, D).
    """

    def __init__(self, config: TowerConfig):
        super().__init__()
        size = config.hidden_size
        self.num_heads = config.num_attention_heads
        self.probe = nn.Parameter(torch.zeros(size))
        self.q_proj = nn.Linear(size, size)
        self.kv_proj = nn.Linear(size, 2 * size)
        self.out_proj = nn.Linear(size, size)
        self.norm = build_norm(config)
        self.feed_forward = build_feed_forward(config)

    def initialize(self):
        """A query of about length 1."""
        init.normal_(self.probe, std=self.probe.numel() ** -0.5)

    def forward(
        self,
        hidden_states: torch.Tensor,
        mask: torch.Tensor | None = None,
        is_end: torch.Tensor | None = None,
    ) -> torch.Tensor:
        batch = hidden_states.shape[0]
        query_BHLA = self._split(self.q_proj(self.probe).expand(batch, 1, -1))
        key_BHLA, value_BHLA = map(self._split, self.kv_proj(hidden_states).chunk(2, dim=-1))
        mask_B11L = None if mask is None else mask[:, None, None].bool()
        attended_BHLA = nn.functional.scaled_dot_product_attention(
            query_BHLA, key_BHLA, value_BHLA, attn_mask=mask_B11L
        )
        pooled_BD = self.out_proj(attended_BHLA.flatten(1))
        return pooled_BD + self.feed_forward(self.norm(pooled_BD))

    def _split(self, states_BLD: torch.Tensor) -> torch.Tensor:
        return states_BLD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


#: `pooling` of each tower -> the function, or a module that is built with the configuration.
IMAGE_POOLINGS: dict[str, Pooling | type[ClipVitAttentionPooling]] = {
    "cls": pool_cls,
    "mean": pool_mean,
    "map": ClipVitAttentionPooling,
    "flatten": pool_flatten,
}
TEXT_POOLINGS: dict[str, Pooling | type[ClipVitAttentionPooling]] = {
    "cls": pool_cls,
    "mean": pool_mean,
    "map": ClipVitAttentionPooling,
    "eos": pool_eos,
    "last": pool_last,
}


def build_pooling(
    config: TowerConfig, poolings: Mapping[str, Pooling | type[ClipVitAttentionPooling]]
) -> Pooling:
    """The pooling that `config.pooling` names: a function, or a module with weights."""
    pooling = poolings[config.pooling]
    return pooling(config) if isinstance(pooling, type) else pooling
