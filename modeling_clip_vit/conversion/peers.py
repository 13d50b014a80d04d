"""The implementations that models are converted between: one table."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import (
    Aimv2Model,
    AlignModel,
    AltCLIPModel,
    AutoConfig,
    ChineseCLIPModel,
    CLIPModel,
    CLIPSegModel,
    MetaClip2Model,
    PreTrainedConfig,
    PreTrainedModel,
    Siglip2Model,
    SiglipModel,
    Tipsv2Model,
    VisionTextDualEncoderModel,
)

from ..modeling_clip_vit import ClipVitForImageClassification, ClipVitModel, ClipVitVisionModel
from ..utils.from_pretrained import loading
from . import hf_clipseg, open_clip
from .hf_aimv2 import from_hf_aimv2, to_hf_aimv2
from .hf_align import from_hf_align, to_hf_align
from .hf_altclip import from_hf_altclip, to_hf_altclip
from .hf_chinese_clip import from_hf_chinese_clip, to_hf_chinese_clip
from .hf_clip import from_hf_clip, to_hf_clip
from .hf_clipseg import from_hf_clipseg, to_hf_clipseg
from .hf_dual_encoder import from_hf_dual_encoder, to_hf_dual_encoder
from .hf_metaclip_2 import from_hf_metaclip_2, to_hf_metaclip_2
from .hf_siglip import from_hf_siglip, to_hf_siglip
from .hf_siglip2 import from_hf_siglip2, to_hf_siglip2
from .hf_tipsv2 import from_hf_tipsv2, to_hf_tipsv2
from .peer_checkpoints import Checkpoint, folder_of, load_transformers
from .processors import open_clip_processor, timm_processor, transformers_processor
from .timm_models import compare_images, from_timm, to_timm
from .timm_models import load as load_timm
from .timm_models import save as save_timm
from .weights import ConversionError

#: A CLIP of ours, its image tower alone, or a classifier of images.
Ours = ClipVitModel | ClipVitVisionModel | ClipVitForImageClassification


@dataclass(frozen=True)
class Peer:
    """An implementation and how its models become ours and back.

    Args:
        detect: whether the content of a checkpoint's configuration file is of this implementation.
        load: a model of it from a checkpoint.
        from_peer: that model as one of ours.
        to_peer: one of ours as a model of it; None where it is only read.
        save: write such a model, with our configuration of it, into a folder that is there.
        is_tower: whether it holds an image tower alone.
        takes_patches: whether its processors make patches of images in their own aspect ratio.
        processor: what prepares the inputs of a loaded model, given the folder of its checkpoint;
            None where the folder does not say.
        compare_inputs: check that such a processor prepares what the model itself was given, from
            the same pictures and texts; returns the largest difference of a pixel, of 255 levels.
    """

    detect: Callable[[dict], bool]
    load: Callable[[Checkpoint], Any]
    from_peer: Callable[[Any], Ours]
    to_peer: Callable[[Any], Any] | None
    save: Callable[[Any, Path, Any], None]
    is_tower: bool = False
    takes_patches: bool = False
    processor: Callable[[Any, Path], Any] = transformers_processor
    compare_inputs: Callable[[Any, Any, Path], float] | None = None


def is_type(*model_types: str) -> Callable[[dict], bool]:
    """Whether a config.json names one of these types."""
    return lambda config: config.get("model_type") in model_types


def loader(model_class: type[PreTrainedModel], left_out: str = "") -> Callable[[Checkpoint], Any]:
    """How a model of Transformers is loaded; weights whose names begin with `left_out` are not."""
    return lambda source: load_transformers(model_class, source, left_out)


def load_own(source: Checkpoint) -> Ours:
    """A model of ours: a joint one, an image tower, or a classifier."""
    config = AutoConfig.from_pretrained(folder_of(source))
    if config.model_type == "clip_vit":
        return load_transformers(ClipVitModel, source)
    is_classifier = ClipVitForImageClassification.__name__ in (config.architectures or [])
    return load_transformers(
        ClipVitForImageClassification if is_classifier else ClipVitVisionModel, source
    )


def save_pretrained(model: Any, folder: Path, config):
    """Write a model of Transformers."""
    model.save_pretrained(folder)


def transformers_peer(
    model_class: type[PreTrainedModel],
    from_peer: Callable[[Any], ClipVitModel],
    to_peer: Callable[[Any], Any] | None,
    left_out: str = "",
    takes_patches: bool = False,
) -> Peer:
    """A joint model of Transformers, recognised by the type that its configuration has."""
    config_class: Any = model_class.config_class
    return Peer(
        detect=is_type(config_class.model_type),
        load=loader(model_class, left_out),
        from_peer=from_peer,
        to_peer=to_peer,
        save=save_pretrained,
        takes_patches=takes_patches,
    )


PEERS: dict[str, Peer] = {
    "clip_vit": Peer(
        detect=is_type("clip_vit", "clip_vit_vision_model"),
        load=load_own,
        from_peer=lambda model: model,
        to_peer=lambda model: model,
        save=save_pretrained,
        takes_patches=True,
    ),
    "hf_clip": transformers_peer(CLIPModel, from_hf_clip, to_hf_clip),
    "hf_siglip": transformers_peer(SiglipModel, from_hf_siglip, to_hf_siglip),
    "hf_siglip2": transformers_peer(
        Siglip2Model, from_hf_siglip2, to_hf_siglip2, takes_patches=True
    ),
    "hf_metaclip_2": transformers_peer(MetaClip2Model, from_hf_metaclip_2, to_hf_metaclip_2),
    "hf_chinese_clip": transformers_peer(
        ChineseCLIPModel, from_hf_chinese_clip, to_hf_chinese_clip
    ),
    "hf_altclip": transformers_peer(AltCLIPModel, from_hf_altclip, to_hf_altclip),
    "hf_align": transformers_peer(AlignModel, from_hf_align, to_hf_align),
    "hf_aimv2": transformers_peer(Aimv2Model, from_hf_aimv2, to_hf_aimv2),
    "hf_tipsv2": transformers_peer(Tipsv2Model, from_hf_tipsv2, to_hf_tipsv2),
    "hf_clipseg": transformers_peer(
        CLIPSegModel, from_hf_clipseg, to_hf_clipseg, hf_clipseg.DECODER
    ),
    "hf_dual_encoder": transformers_peer(
        VisionTextDualEncoderModel, from_hf_dual_encoder, to_hf_dual_encoder
    ),
    "open_clip": Peer(
        detect=lambda config: "model_cfg" in config,
        load=open_clip.load,
        from_peer=open_clip.from_open_clip,
        to_peer=open_clip.to_open_clip,
        save=open_clip.save,
        processor=open_clip_processor,
        compare_inputs=open_clip.compare_inputs,
    ),
    "timm": Peer(
        detect=lambda config: "architecture" in config,
        load=load_timm,
        from_peer=from_timm,
        to_peer=to_timm,
        save=lambda model, folder, config: save_timm(model, folder),
        is_tower=True,
        processor=timm_processor,
        compare_inputs=compare_images,
    ),
}


def find_peer(source: str) -> str:
    """Which implementation a checkpoint is of.

    Raises:
        ConversionError: none that this knows, or there is no such checkpoint.
    """
    peer = recognize_peer(source)
    if peer is None:
        raise ConversionError(
            f"{source!r} holds a model of type {read_config(source).get('model_type')!r}: it must "
            f"be of one of {', '.join(PEERS)}"
        )
    return peer


def recognize_peer(source: str) -> str | None:
    """Which implementation a checkpoint is of; None where it is of none that this knows.

    Raises:
        ConversionError: there is no such checkpoint.
    """
    config = read_config(source)
    return next((name for name, peer in PEERS.items() if peer.detect(config)), None)


def read_config(source: str) -> dict:
    """The content of a checkpoint's configuration file.

    Raises:
        ConversionError: there is none.
    """
    place = folder_of(source)
    folder = Path(place)
    if (folder / "open_clip_config.json").is_file():
        with loading(source):
            return json.loads((folder / "open_clip_config.json").read_text(encoding="utf-8"))
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConversionError(
            f"{source!r} has neither config.json nor open_clip_config.json: for a checkpoint of "
            "a training run, see 'From a run of open_clip' in docs/conversion.md"
        )
    with loading(source):
        return PreTrainedConfig.get_config_dict(place)[0]
