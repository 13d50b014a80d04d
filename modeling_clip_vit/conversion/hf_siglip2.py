"""Transformers' SigLIP 2 for images of any shape, NaFlex (Tschannen et al., 2025, section 2.4.2).

SigLIP 2 at a fixed resolution is of Transformers' type SigLIP.
"""

import math
from typing import Any

import torch
from transformers import Siglip2Config, Siglip2Model, Siglip2VisionConfig

from ..configuration_clip_vit import is_foreign
from ..modeling_clip_vit import ClipVitModel
from . import hf_siglip
from .kept_towers import kept_fields, require_kept
from .peer_checkpoints import Checkpoint, model_of
from .weights import move_weights, require_classic, take

NAME = "Transformers' SigLIP 2"
SHARED_VISION = tuple(name for name in hf_siglip.SHARED_VISION if name != "image_size")
VISION = {**hf_siglip.VISION, "position_interpolation": "antialiased"}
#: Our weights of the patches, a convolution, and theirs, a matrix for patches with channels last.
CONVOLUTION = "vision_model.embeddings.patch_embedding.projection.weight"
MATRIX = "vision_model.embeddings.patch_embedding.weight"


def from_hf_siglip2(source: Siglip2Model | Checkpoint) -> ClipVitModel:
    """A SigLIP 2 of Transformers, or a checkpoint of one, as one of ours.

    Raises:
        ConversionError: a weight has no counterpart in the other model, or the checkpoint lacks
            some.
    """
    peer = model_of(Siglip2Model, source)
    vision = peer.config.vision_config
    fields = {**take(vision, SHARED_VISION), **VISION}
    fields["image_size"] = math.isqrt(vision.num_patches) * vision.patch_size
    model = ClipVitModel(hf_siglip.joint_config(fields, peer.config.text_config))
    shape = (vision.patch_size, vision.patch_size, vision.num_channels)
    weight = peer.state_dict()[MATRIX].unflatten(1, shape).permute(0, 3, 1, 2)
    move_weights(peer, model, hf_siglip.rules(model), to_ours=True, changed={MATRIX: weight})
    return model.to(peer.dtype).eval()


def to_hf_siglip2(model: ClipVitModel) -> Siglip2Model:
    """One of ours as a SigLIP 2 of Transformers.

    Raises:
        ConversionError: it is built in a way that a SigLIP 2 is not.
    """
    config, changed = model.config, {}
    if is_foreign(config.vision_config):
        # What earlier versions made of a SigLIP 2.
        require_kept(config.vision_config, Siglip2VisionConfig, hf_siglip.KEPT, NAME)
        vision = kept_fields(config.vision_config)
    else:
        require_classic(config.vision_config, VISION, NAME)
        vision = take(config.vision_config, SHARED_VISION)
        vision["num_patches"] = config.vision_config.grid_size**2
        weight: torch.Tensor = model.state_dict()[CONVOLUTION]
        changed = {CONVOLUTION: weight.permute(0, 2, 3, 1)}
    require_classic(config.text_config, hf_siglip.TEXT, NAME)
    text = take(config.text_config, hf_siglip.SHARED_TEXT)
    peer: Any = Siglip2Model(
        Siglip2Config(
            vision_config=vision,
            text_config={**text, "projection_size": config.projection_dim},
        )
    )
    move_weights(model, peer, hf_siglip.rules(model), to_ours=False, changed=changed)
    return peer.to(model.dtype).eval()
