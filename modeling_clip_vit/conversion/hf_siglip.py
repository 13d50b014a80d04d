"""Transformers' SigLIP."""

from typing import Any

from transformers import SiglipConfig, SiglipModel

from ..configuration_clip_vit import ClipVitConfig
from ..modeling_clip_vit import ClipVitModel
from . import hf_clip
from .hf_clip import block_rules, embedding_rules
from .peer_checkpoints import Checkpoint, model_of
from .weights import Rule, module, move_weights, require_classic, same, take

# SigLIP's configurations have no initializer_range.
SHARED_VISION = tuple(name for name in hf_clip.SHARED_VISION if name != "initializer_range")
SHARED_TEXT = (
    *(name for name in hf_clip.SHARED_TEXT if name != "initializer_range"),
    "eos_token_id",
)
VISION = {
    "patch_embedding": "conv",
    "patch_bias": True,
    "embedding_norm": False,
    "use_cls_token": False,
    "num_register_tokens": 0,
    "pooling": "map",
    "final_norm": "before_pooling",
    "projection_type": "none",
}
TEXT = {
    "is_causal": False,
    "embedding_norm": False,
    "pooling": "last",
    "final_norm": "before_pooling",
    "projection_type": "linear",
    "projection_bias": True,
}


def from_hf_siglip(source: SiglipModel | Checkpoint) -> ClipVitModel:
    """A SigLIP of Transformers, or a checkpoint of one, as one of ours.

    Raises:
        ConversionError: a weight has no counterpart in the other model, or the checkpoint lacks
            some.
    """
    peer = model_of(SiglipModel, source)
    text = peer.config.text_config
    config = ClipVitConfig(
        vision_config={**take(peer.config.vision_config, SHARED_VISION), **VISION},
        text_config={**take(text, SHARED_TEXT), **TEXT},
        projection_dim=text.projection_size,
        logit_bias_init_value=-10.0,
        # Published models exceed any bound that one would choose.
        logit_scale_max=None,
    )
    model = ClipVitModel(config)
    move_weights(peer, model, rules(config), to_ours=True)
    return model.to(peer.dtype).eval()


def to_hf_siglip(model: ClipVitModel) -> SiglipModel:
    """One of ours as a SigLIP of Transformers.

    Raises:
        ConversionError: it is built in a way that Transformers' SigLIP is not.
    """
    config = model.config
    require_classic(config.vision_config, VISION, "Transformers' SigLIP")
    require_classic(config.text_config, TEXT, "Transformers' SigLIP")
    peer: Any = SiglipModel(
        SiglipConfig(
            vision_config=take(config.vision_config, SHARED_VISION),
            text_config={
                **take(config.text_config, SHARED_TEXT),
                "projection_size": config.projection_dim,
            },
        )
    )
    move_weights(model, peer, rules(config), to_ours=False)
    return peer.to(model.dtype).eval()


def rules(config: ClipVitConfig) -> list[Rule]:
    """Which weights belong together."""
    head = "vision_model.head"
    return [
        *text_rules(config),
        *embedding_rules("vision_model"),
        *module("vision_model.final_norm", "vision_model.post_layernorm"),
        *block_rules("vision_model", config.vision_config.num_hidden_layers),
        *same("vision_model.pooling.probe", f"{head}.probe"),
        *(
            Rule(
                tuple(f"vision_model.pooling.{name}_proj.{kind}" for name in ("q", "kv")),
                (f"{head}.attention.in_proj_{kind}",),
            )
            for kind in ("weight", "bias")
        ),
        *module("vision_model.pooling.out_proj", f"{head}.attention.out_proj"),
        *module("vision_model.pooling.norm", f"{head}.layernorm"),
        *module("vision_model.pooling.feed_forward.fc1", f"{head}.mlp.fc1"),
        *module("vision_model.pooling.feed_forward.fc2", f"{head}.mlp.fc2"),
    ]


def text_rules(config: ClipVitConfig) -> list[Rule]:
    """The text tower, and what makes logits of embeddings."""
    return [
        *same("similarity.logit_scale", "logit_scale"),
        *same("similarity.logit_bias", "logit_bias"),
        *embedding_rules("text_model"),
        *module("text_model.final_norm", "text_model.final_layer_norm"),
        *module("text_projection", "text_model.head"),
        *block_rules("text_model", config.text_config.num_hidden_layers),
    ]
