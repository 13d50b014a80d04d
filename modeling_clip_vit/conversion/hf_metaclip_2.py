"""Transformers' MetaCLIP 2: CLIP's towers over a multilingual vocabulary (Chuang et al., 2025)."""

from transformers import MetaClip2Model

from ..modeling_clip_vit import ClipVitModel
from .hf_clip import from_clip_type, to_clip_type
from .peer_checkpoints import Checkpoint, model_of


def from_hf_metaclip_2(source: MetaClip2Model | Checkpoint) -> ClipVitModel:
    """A MetaCLIP 2 of Transformers, or a checkpoint of one, as one of ours.

    Raises:
        ConversionError: a weight has no counterpart in the other model, or the checkpoint lacks
            some.
    """
    peer = model_of(MetaClip2Model, source)
    return from_clip_type(peer, peer.config.text_config.eos_token_id)


def to_hf_metaclip_2(model: ClipVitModel) -> MetaClip2Model:
    """One of ours as a MetaCLIP 2 of Transformers.

    Raises:
        ConversionError: it is built in a way that Transformers' MetaCLIP 2 is not.
    """
    return to_clip_type(model, MetaClip2Model, "Transformers' MetaCLIP 2")
