"""Text towers of open_clip: its own, and encoders of Transformers."""

from typing import Any

import torch
from torch import nn

from .. import hf_clip, hf_siglip
from ..weights import ConversionError, Rule, module, same
from .parts import TowerPlan, block_fields, block_rules

#: open_clip's pooling of its own text tower -> ours.
POOLINGS = {"argmax": "eos", "eos": "eos", "last": "last", "first": "cls"}
#: Its pooling of an encoder of Transformers -> ours; None takes the encoder's own pooler.
HF_POOLINGS = {"MeanPooler": "mean", "ClsLastHiddenStatePooler": "cls"}
POOLER = "pooler.dense"


def plan_texts(peer: Any) -> tuple[TowerPlan, int]:
    """How the text tower of a model becomes ours, and the size of the joint space.

    Raises:
        ConversionError: it has a part that ours has not.
    """
    text = getattr(peer, "text", peer)
    prefix = "" if text is peer else "text."
    if type(text).__name__ == "HFTextEncoder":
        return plan_encoder(text), text.output_dim
    if not hasattr(text, "token_embedding"):
        raise ConversionError(f"a text tower {type(text).__name__} is not open_clip's own")
    return plan_own(text, prefix), joint_size(text)


def joint_size(text: Any) -> int:
    """Size of the joint space."""
    projection = text.text_projection
    if projection is None:
        return text.token_embedding.embedding_dim
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]


def plan_own(text: Any, prefix: str) -> TowerPlan:
    """open_clip's own text tower, whose weights' names begin with `prefix`.

    Raises:
        ConversionError: it pools in a way that ours does not.
    """
    fields = own_fields(text)
    count = fields["num_hidden_layers"]
    rules = [
        *module("text_model.embeddings.token_embedding", f"{prefix}token_embedding"),
        *same("text_model.embeddings.position_embedding.weight", f"{prefix}positional_embedding"),
        *module("text_model.final_norm", f"{prefix}ln_final"),
        *block_rules("text_model.encoder.layers", f"{prefix}transformer.resblocks", count),
        *module("text_projection", f"{prefix}text_projection"),
        Rule(("text_projection.weight",), (f"{prefix}text_projection",), is_transposed=True),
    ]
    return TowerPlan(fields, rules)


def own_fields(text: Any) -> dict[str, Any]:
    """Fields of the configuration of open_clip's own text tower.

    Raises:
        ConversionError: it pools in a way that ours does not.
    """
    pool_type = getattr(text, "pool_type", None) or text.text_pool_type
    if pool_type not in POOLINGS or getattr(text, "cls_emb", None) is not None:
        raise ConversionError(
            f"a text tower with pool_type={pool_type!r} or a class token is not converted"
        )
    projection, vocab_size = text.text_projection, text.token_embedding.num_embeddings
    eos_token_id = vocab_size - 1  # open_clip takes the token with the largest id for the end
    if pool_type == "eos":
        eos_token_id = text.eos_id if hasattr(text, "eos_id") else text.text_eos_id
    return {
        **block_fields(text.transformer.resblocks),
        **(hf_siglip.TEXT if pool_type == "last" else hf_clip.TEXT),
        "pooling": POOLINGS[pool_type],
        "is_causal": text.attn_mask is not None,
        "projection_type": "none" if projection is None else "linear",
        "projection_bias": getattr(projection, "bias", None) is not None,
        "vocab_size": vocab_size,
        "max_position_embeddings": text.positional_embedding.shape[0],
        "eos_token_id": eos_token_id,
        "bos_token_id": None,
        "pad_token_id": getattr(text, "pad_id", 0),
    }


def plan_encoder(text: Any) -> TowerPlan:
    """An encoder of Transformers, which open_clip pools and projects.

    Where AutoModel builds it with a pooler that open_clip does not use, the pooler is zero.

    Raises:
        ConversionError: it is pooled in a way that ours does not.
    """
    config, encoder = text.config, text.transformer
    names = list(encoder.state_dict())
    kind, changed = type(text.pooler).__name__, {}
    has_pooler = any(name.startswith(POOLER) for name in names)
    if kind == "ClsPooler":
        pooling = None if has_pooler and text.pooler.use_pooler_output else "cls"
    elif kind in HF_POOLINGS:
        pooling = HF_POOLINGS[kind]
    else:
        raise ConversionError(f"a text tower with pooling by a {kind} is not converted")
    projection, rules = encoder_projection(text.proj, config)
    rules += [
        rule for name in names for rule in same(f"text_model.{name}", f"text.transformer.{name}")
    ]
    if not has_pooler and pooling is not None:
        size = config.hidden_size
        changed = {
            f"text.transformer.{POOLER}.weight": torch.zeros(size, size),
            f"text.transformer.{POOLER}.bias": torch.zeros(size),
        }
        rules += module(f"text_model.{POOLER}", f"text.transformer.{POOLER}")
    fields = {**config.to_dict(), **projection, "pooling": pooling}
    return TowerPlan(fields, rules, changed)


def encoder_projection(projection: nn.Module, config: Any) -> tuple[dict[str, Any], list[Rule]]:
    """The fields and weights of what projects the pooled output of an encoder of Transformers.

    Raises:
        ConversionError: ours would have another activation between its layers.
    """
    if isinstance(projection, nn.Linear):
        fields = {"projection_type": "linear", "projection_bias": projection.bias is not None}
        return fields, module("text_projection", "text.proj")
    if not isinstance(projection, nn.Sequential):
        return {"projection_type": "none"}, []
    act = getattr(config, "hidden_act", "gelu")
    if act != "gelu":
        raise ConversionError(
            f"a projection with GELU after an encoder with {act} is not converted"
        )
    fields = {
        "projection_type": "mlp",
        "projection_hidden_size": projection[0].out_features,
        "projection_hidden_bias": projection[0].bias is not None,
        "projection_bias": projection[2].bias is not None,
    }
    rules = [
        *module("text_projection.0", "text.proj.0"),
        *module("text_projection.2", "text.proj.2"),
    ]
    return fields, rules
