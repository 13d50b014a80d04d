"""Transformers' TIPSv2: a ViT with registers and a text encoder pooled by its mean."""

from math import exp, log

from transformers import Tipsv2Model

from ..modeling_clip_vit import ClipVitModel
from .kept_towers import KeptTowers, from_kept, to_kept
from .peer_checkpoints import Checkpoint

TIPSV2 = KeptTowers(
    model_class=Tipsv2Model,
    name="Transformers' TIPSv2",
    vision={"projection_type": "none"},
    text={"projection_type": "none"},
    joint=lambda peer: {
        "projection_dim": peer.text_config.hidden_size,
        "logit_scale_init_value": -log(peer.temperature_init_value),
        # Published models exceed any bound that one would choose.
        "logit_scale_max": None,
    },
    peer_joint=lambda config: {"temperature_init_value": exp(-config.logit_scale_init_value)},
    has_temperature=True,
)


def from_hf_tipsv2(source: Tipsv2Model | Checkpoint) -> ClipVitModel:
    """A TIPSv2 of Transformers, or a checkpoint of one, as one of ours with the same towers.

    Raises:
        ConversionError: a weight has no counterpart in the other model.
        ValueError: a checkpoint lacks weights or has unexpected ones.
    """
    return from_kept(TIPSV2, source)


def to_hf_tipsv2(model: ClipVitModel) -> Tipsv2Model:
    """One of ours that has the towers of a TIPSv2 as a TIPSv2 of Transformers.

    Raises:
        ConversionError: its towers are of another type, or pooled or projected in another way.
    """
    return to_kept(TIPSV2, model)
