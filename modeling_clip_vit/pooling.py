"""From a sequence of hidden states to one vector, chosen by `config.pooling`.

Shape legend: `B` batch, `L` sequence, `D` hidden, `H` heads, `A` head size.
"""

import torch
from torch import nn
from transformers import initialization as init

from .configuration_clip_vit import TowerConfig
from .feed_forward import build_feed_forward
from .normalization import build_norm


def pool_cls(hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
    """The first token's state (BERT's [CLS]; Dosovitskiy et al., 2021, section 3.1): (B, D)."""
    if mask_BL is None:
        return hidden_BLD[:, 0]
    return take_token(hidden_BLD, mask_BL.int().argmax(dim=1))


def pool_mean(hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
    """The mean over tokens, padding left out: (B, D)."""
    if mask_BL is None:
        return hidden_BLD.mean(dim=1)
    weights_BL1 = mask_BL.to(hidden_BLD.dtype).unsqueeze(-1)
    return (hidden_BLD * weights_BL1).sum(dim=1) / weights_BL1.sum(dim=1).clamp(min=1)


def pool_flatten(hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
    """All tokens side by side, which keeps where things are: (B, L * D)."""
    return hidden_BLD.flatten(1)


def pool_last(hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
    """The last token's state, padding left out (as causal language models are pooled): (B, D)."""
    return take_token(hidden_BLD, last_token(hidden_BLD, mask_BL))


def pool_eos(hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
    """The first end-of-text token's state (Radford et al., 2021, section 2.4): (B, D).

    A text without an end-of-text token (it was cut) gives its last token's state.
    """
    if mask_BL is not None:
        is_end_BL = is_end_BL & mask_BL.bool()
    first_end_B = is_end_BL.int().argmax(dim=1)
    last_B = last_token(hidden_BLD, mask_BL)
    return take_token(hidden_BLD, torch.where(is_end_BL.any(dim=1), first_end_B, last_B))


def last_token(hidden_BLD: torch.Tensor, mask_BL=None) -> torch.Tensor:
    """Index of the last token that the mask keeps, (B,)."""
    batch, length, _ = hidden_BLD.shape
    if mask_BL is None:
        return torch.full((batch,), length - 1, device=hidden_BLD.device)
    # A fully masked row has no last token; any will do, so long as it is in range.
    return length - 1 - mask_BL.flip(1).int().argmax(dim=1)


def take_token(hidden_BLD: torch.Tensor, index_B: torch.Tensor) -> torch.Tensor:
    """The state of token `index_B[b]` of each sequence b: (B, D)."""
    rows_B = torch.arange(hidden_BLD.shape[0], device=hidden_BLD.device)
    return hidden_BLD[rows_B, index_B]


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

    def forward(self, hidden_BLD: torch.Tensor, mask_BL=None, is_end_BL=None) -> torch.Tensor:
        batch = hidden_BLD.shape[0]
        query_BHLA = self._split(self.q_proj(self.probe).expand(batch, 1, -1))
        key_BHLA, value_BHLA = map(self._split, self.kv_proj(hidden_BLD).chunk(2, dim=-1))
        mask_B11L = None if mask_BL is None else mask_BL[:, None, None].bool()
        attended_BHLA = nn.functional.scaled_dot_product_attention(
            query_BHLA, key_BHLA, value_BHLA, attn_mask=mask_B11L
        )
        pooled_BD = self.out_proj(attended_BHLA.flatten(1))
        return pooled_BD + self.feed_forward(self.norm(pooled_BD))

    def _split(self, states_BLD: torch.Tensor) -> torch.Tensor:
        return states_BLD.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)


#: `pooling` -> function, or module built with the configuration, of (hidden_BLD, mask_BL,
#: is_end_BL): what each tower may use.
IMAGE_POOLINGS = {
    "cls": pool_cls,
    "mean": pool_mean,
    "map": ClipVitAttentionPooling,
    "flatten": pool_flatten,
}
TEXT_POOLINGS = {
    "cls": pool_cls,
    "mean": pool_mean,
    "map": ClipVitAttentionPooling,
    "eos": pool_eos,
    "last": pool_last,
}


def build_pooling(config: TowerConfig, poolings: dict):
    """The pooling that `config.pooling` names: a function, or a module with weights."""
    pooling = poolings[config.pooling]
    return pooling(config) if isinstance(pooling, type) else pooling
