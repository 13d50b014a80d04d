"""Transformers' VisionTextDualEncoder: any image encoder with any text encoder."""

from transformers import VisionTextDualEncoderModel

from ..modeling_clip_vit import ClipVitModel
from .kept_towers import KeptTowers, from_kept, to_kept
from .peer_checkpoints import Checkpoint

DUAL_ENCODER = KeptTowers(
    model_class=VisionTextDualEncoderModel,
    name="Transformers' VisionTextDualEncoder",
    vision={},
    text={},
    joint=lambda peer: {
        "projection_dim": peer.projection_dim,
        "logit_scale_init_value": peer.logit_scale_init_value,
    },
    peer_joint=lambda config: {
        "projection_dim": config.projection_dim,
        "logit_scale_init_value": config.logit_scale_init_value,
    },
)


def from_hf_dual_encoder(source: VisionTextDualEncoderModel | Checkpoint) -> ClipVitModel:
    """A VisionTextDualEncoder of Transformers, or a checkpoint of one, as one of ours.

    Raises:
        ConversionError: a weight has no counterpart in the other model.
        ValueError: a checkpoint lacks weights or has unexpected ones.
    """
    return from_kept(DUAL_ENCODER, source)


def to_hf_dual_encoder(model: ClipVitModel) -> VisionTextDualEncoderModel:
    """One of ours with two towers of Transformers as a VisionTextDualEncoder.

    Raises:
        ConversionError: its towers are of another type, or pooled or projected in another way.
    """
    return to_kept(DUAL_ENCODER, model)
