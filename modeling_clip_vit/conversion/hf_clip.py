"""Transformers' CLIP: OpenAI's and open_clip's models on the Hub."""

from typing import Any

from transformers import CLIPModel, PreTrainedModel

from ..configuration_clip_vit import ClipVitConfig
from ..modeling_clip_vit import ClipVitModel
from .peer_checkpoints import Checkpoint, model_of
from .weights import Rule, blocks, module, move_weights, require_classic, same, stacked, take

#: Fields of a tower that have the same name and meaning on both sides.
SHARED = (
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
)
SHARED_VISION = (*SHARED, "image_size", "patch_size", "num_channels")
SHARED_TEXT = (*SHARED, "vocab_size", "max_position_embeddings", "pad_token_id", "bos_token_id")
SHARED_JOINT = ("projection_dim", "logit_scale_init_value")
VISION = {
    "patch_embedding": "conv",
    "patch_bias": False,
    "embedding_norm": True,
    "use_cls_token": True,
    "num_register_tokens": 0,
    "pooling": "cls",
    "final_norm": "after_pooling",
    "projection_type": "linear",
    "projection_bias": False,
}
TEXT = {
    "is_causal": True,
    "embedding_norm": False,
    "pooling": "eos",
    "final_norm": "before_pooling",
    "projection_type": "linear",
    "projection_bias": False,
}
BLOCK = {
    "attention.out_proj": "self_attn.out_proj",
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "feed_forward.fc1": "mlp.fc1",
    "feed_forward.fc2": "mlp.fc2",
}


def from_hf_clip(source: CLIPModel | Checkpoint) -> ClipVitModel:
    """A CLIP of Transformers, or a checkpoint of one, as one of ours.

    Raises:
        ConversionError: a weight has no counterpart in the other model, or the checkpoint lacks
            some.
    """
    peer = model_of(CLIPModel, source)
    return from_clip_type(peer, end_of_text(peer.config.text_config))


def to_hf_clip(model: ClipVitModel) -> CLIPModel:
    """One of ours as a CLIP of Transformers.

    Raises:
        ConversionError: it is built in a way that Transformers' CLIP is not.
    """
    return to_clip_type(model, CLIPModel, "Transformers' CLIP")


def end_of_text(text: Any) -> int:
    """Id of the token that ends a text.

    Configurations from before Transformers 4.31 say 2 and mean the largest id.
    """
    return text.vocab_size - 1 if text.eos_token_id == 2 else text.eos_token_id


def from_clip_type(peer: Any, eos_token_id: int) -> ClipVitModel:
    """A model of Transformers that is built as its CLIP, as one of ours.

    Args:
        peer: the model.
        eos_token_id: id of the token that ends a text, at which it is pooled.

    Raises:
        ConversionError: a weight has no counterpart in the other model.
    """
    config = ClipVitConfig(
        vision_config={**take(peer.config.vision_config, SHARED_VISION), **VISION},
        text_config={
            **take(peer.config.text_config, SHARED_TEXT),
            **TEXT,
            "eos_token_id": eos_token_id,
        },
        **take(peer.config, SHARED_JOINT),
    )
    model = ClipVitModel(config)
    move_weights(peer, model, rules(config), to_ours=True)
    return model.to(peer.dtype).eval()


def to_clip_type(model: ClipVitModel, model_class: type[PreTrainedModel], name: str) -> Any:
    """One of ours as a model of Transformers that is built as its CLIP.

    Args:
        model: ours.
        model_class: theirs.
        name: what messages call it.

    Raises:
        ConversionError: ours is built in another way.
    """
    config = model.config
    config_class: Any = model_class.config_class
    require_classic(config.vision_config, VISION, name)
    require_classic(config.text_config, TEXT, name)
    peer: Any = model_class(
        config_class(
            vision_config=take(config.vision_config, SHARED_VISION),
            text_config=take(config.text_config, (*SHARED_TEXT, "eos_token_id")),
            **take(config, SHARED_JOINT),
        )
    )
    move_weights(model, peer, rules(config), to_ours=False)
    return peer.to(model.dtype).eval()


def rules(config: ClipVitConfig) -> list[Rule]:
    """Which weights belong together."""
    return [
        *joint_rules(),
        *vision_rules(config),
        *embedding_rules("text_model"),
        *module("text_model.final_norm", "text_model.final_layer_norm"),
        *block_rules("text_model", config.text_config.num_hidden_layers),
    ]


def joint_rules() -> list[Rule]:
    """Projections and scale."""
    return [
        *same("similarity.logit_scale", "logit_scale"),
        *module("visual_projection", "visual_projection"),
        *module("text_projection", "text_projection"),
    ]


def vision_rules(config: ClipVitConfig) -> list[Rule]:
    """The image tower."""
    return [
        *same("vision_model.embeddings.cls_token", "vision_model.embeddings.class_embedding"),
        *embedding_rules("vision_model"),
        *module("vision_model.embeddings.norm", "vision_model.pre_layrnorm"),
        *module("vision_model.final_norm", "vision_model.post_layernorm"),
        *block_rules("vision_model", config.vision_config.num_hidden_layers),
    ]


def embedding_rules(tower: str) -> list[Rule]:
    """Tokens or patches, and positions."""
    return [
        rule
        for ours, theirs in {
            "token_embedding": "token_embedding",
            "patch_embedding.projection": "patch_embedding",
            "position_embedding": "position_embedding",
        }.items()
        for rule in module(f"{tower}.embeddings.{ours}", f"{tower}.embeddings.{theirs}")
    ]


def block_rules(tower: str, count: int) -> list[Rule]:
    """All blocks of a tower; Transformers keeps queries, keys and values apart."""
    layers = f"{tower}.encoder.layers"
    qkv = [
        rule
        for layer in range(count)
        for rule in stacked(
            [f"{layers}.{layer}.attention.qkv_proj"],
            [f"{layers}.{layer}.self_attn.{name}_proj" for name in "qkv"],
        )
    ]
    return [*qkv, *blocks(count, layers, layers, BLOCK)]
