"""The CLIP inside Transformers' CLIPSeg (Lüddecke and Ecker, 2022)."""

from transformers import CLIPSegModel

from ..modeling_clip_vit import ClipVitModel
from .hf_clip import end_of_text, from_clip_type, to_clip_type
from .peer_checkpoints import Checkpoint, model_of

#: What the names of the decoder's weights begin with.
DECODER = "decoder."


def from_hf_clipseg(source: CLIPSegModel | Checkpoint) -> ClipVitModel:
    """The CLIP of a CLIPSeg of Transformers, or of a checkpoint of one, as one of ours.

    The decoder, which segments and embeds nothing, is left out.

    Raises:
        ConversionError: a weight has no counterpart in the other model, or the checkpoint lacks
            some.
    """
    peer = model_of(CLIPSegModel, source, DECODER)
    return from_clip_type(peer, end_of_text(peer.config.text_config))


def to_hf_clipseg(model: ClipVitModel) -> CLIPSegModel:
    """One of ours as the CLIP of a CLIPSeg of Transformers.

    Raises:
        ConversionError: it is built in a way that Transformers' CLIPSeg is not.
    """
    return to_clip_type(model, CLIPSegModel, "Transformers' CLIPSeg")
