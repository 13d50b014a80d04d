"""Transformers' SigLIP 2 for images of any shape, NaFlex (Tschannen et al., 2025, section 2.4.2).

SigLIP 2 at a fixed resolution is of Transformers' type SigLIP.
"""

from typing import Any

from transformers import Siglip2Config, Siglip2Model, Siglip2VisionConfig

from ..modeling_clip_vit import ClipVitModel
from . import hf_siglip
from .kept_towers import kept_config, kept_fields, require_kept, tower_rules
from .peer_checkpoints import Checkpoint, model_of
from .weights import Rule, move_weights, require_classic, take

NAME = "Transformers' SigLIP 2"
#: The image tower pools by attention, into the joint space.
VISION = {"projection_type": "none"}


def from_hf_siglip2(source: Siglip2Model | Checkpoint) -> ClipVitModel:
    """A SigLIP 2 of Transformers, or a checkpoint of one, as one of ours.

    Its image tower stays what it is, as it interpolates positions in another way than ours; the
    text tower becomes ours.

    Raises:
        ConversionError: a weight has no counterpart in the other model, or the checkpoint lacks
            some.
    """
    peer = model_of(Siglip2Model, source)
    vision = kept_config(peer.config.vision_config, VISION)
    model = ClipVitModel(hf_siglip.joint_config(vision, peer.config.text_config))
    move_weights(peer, model, rules(model), to_ours=True)
    return model.to(peer.dtype).eval()


def to_hf_siglip2(model: ClipVitModel) -> Siglip2Model:
    """One of ours with such towers as a SigLIP 2 of Transformers.

    Raises:
        ConversionError: it is built in a way that a SigLIP 2 is not.
    """
    config = model.config
    require_kept(config.vision_config, Siglip2VisionConfig, VISION, NAME)
    require_classic(config.text_config, hf_siglip.TEXT, NAME)
    text = take(config.text_config, hf_siglip.SHARED_TEXT)
    peer: Any = Siglip2Model(
        Siglip2Config(
            vision_config=kept_fields(config.vision_config),
            text_config={**text, "projection_size": config.projection_dim},
        )
    )
    move_weights(model, peer, rules(model), to_ours=False)
    return peer.to(model.dtype).eval()


def rules(model: ClipVitModel) -> list[Rule]:
    """Which weights belong together."""
    return [*hf_siglip.text_rules(model.config), *tower_rules(model.vision_model, "vision_model")]
