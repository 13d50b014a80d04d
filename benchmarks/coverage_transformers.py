"""Transformers' models with a text and an image encoder for conversion_coverage.py, small."""

import sys
import tempfile
from pathlib import Path

import torch

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.conversion import ConversionError
from modeling_clip_vit.conversion.peers import PEERS
from modeling_clip_vit.conversion.verify import verify

sys.path.insert(0, str(Path(__file__).parents[1]))

#: Models of Transformers that embed images or texts, and are not converted: why.
LEFT_OUT = {
    "blip": "its documentation deprecates BlipModel, and its retrieval model has a matching head",
    "blip-2": "an image has 32 embeddings, the closest of which is compared",
    "flava": "a third encoder joins the two",
    "groupvit": "its documentation offers segmentation; its projections have batch norms",
    "owlvit": "a detector: its documentation offers the boxes of texts",
    "owlv2": "a detector: its documentation offers the boxes of texts",
    "videoprism": "its images are videos",
    "xclip": "its images are videos",
}


def list_models() -> list[str]:
    """The names of the peers of Transformers, and of what is left out."""
    return [*(name for name in PEERS if name.startswith("hf_")), *LEFT_OUT]


def check(name: str) -> dict:
    """Convert a model there and back, and save and load it: the fields of its row."""
    if name in LEFT_OUT:
        return {"reason": LEFT_OUT[name]}
    from tests.support.peers import stir
    from tests.support.transformers_peers import MODELS, converters

    torch.manual_seed(0)
    peer, (from_peer, to_peer) = stir(MODELS[name]()), converters(name)
    with torch.no_grad(), tempfile.TemporaryDirectory() as folder:
        try:
            ours = from_peer(peer)
            config = ours.config
            row = {
                "image": config.vision_config.model_type,
                "text": config.text_config.model_type,
                "difference": largest(verify(peer, ours, config)),
                "back": largest(verify(peer, to_peer(ours), config)),
            }
        except ConversionError as reason:
            return {"reason": str(reason)}
        ours.save_pretrained(folder)
        row["loaded"] = largest(verify(ours, ClipVitModel.from_pretrained(folder), config))
    return row


def largest(differences: dict[str, float]) -> float:
    """The largest difference of an embedding."""
    return max(differences["image_embeds"], differences["text_embeds"])
