"""Transformers' AltCLIP: an image tower as CLIP's, and an XLM-R (Chen et al., 2022)."""

from typing import Any

from transformers import AltCLIPConfig, AltCLIPModel, AltCLIPTextConfig

from ..configuration_clip_vit import ClipVitConfig
from ..modeling_clip_vit import ClipVitModel
from . import hf_clip
from .kept_towers import kept_config, kept_fields, require_kept, tower_rules
from .peer_checkpoints import Checkpoint, model_of
from .weights import Rule, move_weights, require_classic, take

NAME = "Transformers' AltCLIP"


def from_hf_altclip(source: AltCLIPModel | Checkpoint) -> ClipVitModel:
    """An AltCLIP of Transformers, or a checkpoint of one, as one of ours.

    Its text tower stays what it is; the image tower becomes ours.

    Raises:
        ConversionError: a weight has no counterpart in the other model, or the checkpoint lacks
            some.
    """
    peer = model_of(AltCLIPModel, source)
    config = ClipVitConfig(
        vision_config={
            **take(peer.config.vision_config, hf_clip.SHARED_VISION),
            **hf_clip.VISION,
        },
        text_config=kept_config(peer.config.text_config, {}),
        **take(peer.config, hf_clip.SHARED_JOINT),
    )
    model = ClipVitModel(config)
    move_weights(peer, model, rules(model), to_ours=True)
    return model.to(peer.dtype).eval()


def to_hf_altclip(model: ClipVitModel) -> AltCLIPModel:
    """One of ours with such towers as an AltCLIP of Transformers.

    Raises:
        ConversionError: it is built in a way that an AltCLIP is not.
    """
    config = model.config
    require_classic(config.vision_config, hf_clip.VISION, NAME)
    require_kept(config.text_config, AltCLIPTextConfig, {}, NAME)
    peer: Any = AltCLIPModel(
        AltCLIPConfig(
            vision_config=take(config.vision_config, hf_clip.SHARED_VISION),
            text_config=kept_fields(config.text_config),
            **take(config, hf_clip.SHARED_JOINT),
        )
    )
    move_weights(model, peer, rules(model), to_ours=False)
    return peer.to(model.dtype).eval()


def rules(model: ClipVitModel) -> list[Rule]:
    """Which weights belong together."""
    return [
        *hf_clip.joint_rules(),
        *hf_clip.vision_rules(model.config),
        *tower_rules(model.text_model, "text_model"),
    ]
