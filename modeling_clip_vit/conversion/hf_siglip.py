"""Transformers' SigLIP."""

from typing import Any

from transformers import PreTrainedConfig, SiglipConfig, SiglipModel, SiglipVisionConfig

from ..configuration_clip_vit import ClipVitConfig, is_foreign
from ..modeling_clip_vit import ClipVitModel
from . import hf_clip
from .hf_clip import block_rules, embedding_rules
from .kept_towers import kept_config, kept_fields, require_kept, tower_rules
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

#: An image tower that stays what it is pools into the joint space.
KEPT = {"projection_type": "none"}


def from_hf_siglip(source: SiglipModel | Checkpoint) -> ClipVitModel:
    """A SigLIP of Transformers, or a checkpoint of one, as one of ours.

    An image tower whose images are not whole patches (384 pixels, patches of 14) stays what it is.

    Raises:
        ConversionError: a weight has no counterpart in the other model, or the checkpoint lacks
            some.
    """
    peer = model_of(SiglipModel, source)
    vision = peer.config.vision_config
    is_whole = vision.image_size % vision.patch_size == 0
    model = ClipVitModel(
        joint_config(
            {**take(vision, SHARED_VISION), **VISION} if is_whole else kept_config(vision, KEPT),
            peer.config.text_config,
        )
    )
    move_weights(peer, model, rules(model), to_ours=True)
    return model.to(peer.dtype).eval()


def joint_config(vision: dict | PreTrainedConfig, text: PreTrainedConfig) -> ClipVitConfig:
    """Our configuration of a SigLIP, or of a SigLIP 2 for images of any shape.

    Args:
        vision: our configuration of its image tower.
        text: Transformers' configuration of its text tower.
    """
    return ClipVitConfig(
        vision_config=vision,
        text_config={**take(text, SHARED_TEXT), **TEXT},
        projection_dim=text.projection_size,
        logit_bias_init_value=-10.0,
        # Published models exceed any bound that one would choose.
        logit_scale_max=None,
    )


def to_hf_siglip(model: ClipVitModel) -> SiglipModel:
    """One of ours as a SigLIP of Transformers.

    Raises:
        ConversionError: it is built in a way that Transformers' SigLIP is not.
    """
    config = model.config
    name = "Transformers' SigLIP"
    if is_foreign(config.vision_config):
        require_kept(config.vision_config, SiglipVisionConfig, KEPT, name)
        vision = kept_fields(config.vision_config)
    else:
        require_classic(config.vision_config, VISION, name)
        vision = take(config.vision_config, SHARED_VISION)
    require_classic(config.text_config, TEXT, name)
    text = take(config.text_config, SHARED_TEXT)
    peer: Any = SiglipModel(
        SiglipConfig(
            vision_config=vision,
            text_config={**text, "projection_size": config.projection_dim},
        )
    )
    move_weights(model, peer, rules(model), to_ours=False)
    return peer.to(model.dtype).eval()


def rules(model: ClipVitModel) -> list[Rule]:
    """Which weights belong together."""
    config, head = model.config, "vision_model.head"
    if is_foreign(config.vision_config):
        return [*text_rules(config), *tower_rules(model.vision_model, "vision_model")]
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
