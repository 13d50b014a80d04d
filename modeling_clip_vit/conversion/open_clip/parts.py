"""What both towers of open_clip have in common: their plan, and open_clip's own blocks."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..weights import ConversionError, Rule, blocks, same

BLOCK = {
    "attention.out_proj": "attn.out_proj",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "feed_forward.fc1": "mlp.c_fc",
    "feed_forward.fc2": "mlp.c_proj",
}
ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu"}


@dataclass
class TowerPlan:
    """How a tower of open_clip becomes one of ours.

    Args:
        fields: of our configuration of the tower.
        rules: which weights belong together.
        changed: weights by open_clip's name that replace or extend those of the source.
    """

    fields: dict[str, Any]
    rules: list[Rule]
    changed: dict[str, torch.Tensor] = field(default_factory=dict)


def block_fields(resblocks) -> dict:
    """Fields that tell the shape of open_clip's blocks.

    Raises:
        ConversionError: a block has parts that this does not know.
    """
    block = resblocks[0]
    if type(block).__name__ != "ResidualAttentionBlock":
        raise ConversionError(f"blocks of type {type(block).__name__} are not converted")
    act = ACTIVATIONS.get(type(block.mlp.gelu).__name__)
    if act is None:
        raise ConversionError(f"blocks with {block.mlp.gelu} are not converted")
    if getattr(block.mlp.gelu, "approximate", "none") == "tanh":
        act = "gelu_pytorch_tanh"
    return {
        "hidden_size": block.attn.embed_dim,
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": len(resblocks),
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": act,
        "layer_norm_eps": block.ln_1.eps,
        "layer_scale_init_value": None if isinstance(block.ls_1, nn.Identity) else 1.0,
    }


def block_rules(ours: str, theirs: str, count: int) -> list[Rule]:
    """All blocks of a tower; open_clip keeps queries, keys and values together, as we do."""
    result = blocks(count, ours, theirs, BLOCK)
    for layer in range(count):
        mine, other = f"{ours}.{layer}", f"{theirs}.{layer}"
        for kind in ("weight", "bias"):
            result += same(f"{mine}.attention.qkv_proj.{kind}", f"{other}.attn.in_proj_{kind}")
        for number in (1, 2):
            result += same(f"{mine}.scale{number}.gamma", f"{other}.ls_{number}.gamma")
    return result
