"""Transformers' Chinese-CLIP: an image tower as CLIP's, and a BERT (Yang et al., 2022)."""

from typing import Any

import torch
from transformers import BertConfig, ChineseCLIPConfig, ChineseCLIPModel

from ..configuration_clip_vit import FOREIGN_FIELDS, ClipVitConfig
from ..modeling_clip_vit import ClipVitModel
from . import hf_clip
from .kept_towers import require_kept
from .peer_checkpoints import Checkpoint, model_of
from .weights import Rule, move_weights, require_classic, same, take

#: Fields of the text tower that have the same name and meaning in Transformers' BERT.
SHARED_TEXT = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "type_vocab_size",
    "hidden_act",
    "layer_norm_eps",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "pad_token_id",
)
TEXT = {
    # The same computation as its own type of text tower, which AutoModel does not know.
    "model_type": "bert",
    "pooling": "cls",
    "projection_type": "linear",
    "projection_bias": False,
}
POOLER = "text_model.pooler.dense"


def from_hf_chinese_clip(source: ChineseCLIPModel | Checkpoint) -> ClipVitModel:
    """A Chinese-CLIP of Transformers, or a checkpoint of one, as one of ours.

    Its text tower becomes a BERT of Transformers that is pooled at the first token. AutoModel
    builds that with a pooler, which nothing uses: it is zero.

    Raises:
        ConversionError: a weight has no counterpart in the other model, or the checkpoint lacks
            some.
    """
    peer = model_of(ChineseCLIPModel, source)
    vision, text = peer.config.vision_config, peer.config.text_config
    config = ClipVitConfig(
        vision_config={**take(vision, hf_clip.SHARED_VISION), **hf_clip.VISION},
        text_config={**take(text, SHARED_TEXT), **TEXT},
        **take(peer.config, hf_clip.SHARED_JOINT),
    )
    model = ClipVitModel(config)
    size = text.hidden_size
    pooler = {f"{POOLER}.weight": torch.zeros(size, size), f"{POOLER}.bias": torch.zeros(size)}
    move_weights(peer, model, rules(config, model), to_ours=True, changed=pooler)
    return model.to(peer.dtype).eval()


def to_hf_chinese_clip(model: ClipVitModel) -> ChineseCLIPModel:
    """One of ours with a BERT pooled at its first token as a Chinese-CLIP of Transformers.

    The BERT's own pooler, which nothing uses, is left out.

    Raises:
        ConversionError: it is built in a way that a Chinese-CLIP is not.
    """
    config = model.config
    name = "Transformers' Chinese-CLIP"
    pooling = {field: value for field, value in TEXT.items() if field in FOREIGN_FIELDS}
    require_classic(config.vision_config, hf_clip.VISION, name)
    require_kept(config.text_config, BertConfig, pooling, name)
    peer: Any = ChineseCLIPModel(
        ChineseCLIPConfig(
            vision_config=take(config.vision_config, hf_clip.SHARED_VISION),
            text_config=take(config.text_config, SHARED_TEXT),
            **take(config, hf_clip.SHARED_JOINT),
        )
    )
    move_weights(model, peer, rules(config, model), to_ours=False, left_out=POOLER)
    return peer.to(model.dtype).eval()


def rules(config: ClipVitConfig, model: ClipVitModel) -> list[Rule]:
    """Which weights belong together."""
    text = [name for name, _ in model.named_parameters() if name.startswith("text_model.")]
    return [
        *hf_clip.joint_rules(),
        *hf_clip.vision_rules(config),
        *(rule for name in text for rule in same(name, name)),
    ]
