"""Transformers' AIMv2 with a text tower (Fini et al., 2024)."""

from transformers import Aimv2Model

from ..modeling_clip_vit import ClipVitModel
from .kept_towers import KeptTowers, from_kept, to_kept
from .peer_checkpoints import Checkpoint

AIMV2 = KeptTowers(
    model_class=Aimv2Model,
    name="Transformers' AIMv2",
    vision={},
    text={},
    joint=lambda peer: {
        "projection_dim": peer.projection_dim,
        "logit_scale_init_value": peer.logit_scale_init_value,
        "logit_scale_max": peer.max_logit_scale,
    },
    peer_joint=lambda config: {
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": config.logit_scale_init_value,
        "max_logit_scale": config.logit_scale_max or 1e6,
    },
)


def from_hf_aimv2(source: Aimv2Model | Checkpoint) -> ClipVitModel:
    """An AIMv2 of Transformers, or a checkpoint of one, as one of ours with the same towers.

    Raises:
        ConversionError: a weight has no counterpart in the other model.
        ValueError: a checkpoint lacks weights or has unexpected ones.
    """
    model = from_kept(AIMV2, source)
    # AIMv2 bounds the scale in each forward pass, and ours when it learns.
    model.similarity.logit_scale.data.clamp_(min=0)
    model.similarity.clamp_scale()
    return model


def to_hf_aimv2(model: ClipVitModel) -> Aimv2Model:
    """One of ours that has the towers of an AIMv2 as an AIMv2 of Transformers.

    Raises:
        ConversionError: its towers are of another type, or pooled or projected in another way.
    """
    return to_kept(AIMV2, model)
