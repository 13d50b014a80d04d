"""Transformers' ALIGN: an EfficientNet and a BERT (Jia et al., 2021)."""

from math import exp, log

from transformers import AlignModel

from ..modeling_clip_vit import ClipVitModel
from .kept_towers import KeptTowers, from_kept, to_kept
from .peer_checkpoints import Checkpoint

ALIGN = KeptTowers(
    model_class=AlignModel,
    name="Transformers' ALIGN",
    # The last map of the EfficientNet is as wide as the joint space.
    vision={"projection_type": "none"},
    text={"pooling": "cls", "projection_bias": True},
    joint=lambda peer: {
        "projection_dim": peer.projection_dim,
        "logit_scale_init_value": -log(peer.temperature_init_value),
        "logit_scale_max": None,
    },
    peer_joint=lambda config: {
        "projection_dim": config.projection_dim,
        "temperature_init_value": exp(-config.logit_scale_init_value),
    },
    has_temperature=True,
)


def from_hf_align(source: AlignModel | Checkpoint) -> ClipVitModel:
    """An ALIGN of Transformers, or a checkpoint of one, as one of ours with the same towers.

    Raises:
        ConversionError: a weight has no counterpart in the other model.
        ValueError: a checkpoint lacks weights or has unexpected ones.
    """
    return from_kept(ALIGN, source)


def to_hf_align(model: ClipVitModel) -> AlignModel:
    """One of ours that has the towers of an ALIGN as an ALIGN of Transformers.

    Raises:
        ConversionError: its towers are of another type, or pooled or projected in another way.
    """
    return to_kept(ALIGN, model)
