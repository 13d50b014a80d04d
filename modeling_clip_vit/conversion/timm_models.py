"""timm's image models: classifiers with their class names, and towers without a class head."""

import json
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data import ImageNetInfo, create_transform, infer_imagenet_subset
from timm.data import resolve_model_data_config as resolve_images
from timm.models import save_for_hf
from torch import nn
from transformers import TimmWrapperConfig

from ..configuration_clip_vit import ClipVitVisionConfig
from ..modeling_clip_vit import ClipVitForImageClassification, ClipVitModel, ClipVitVisionModel
from . import timm_vit
from .peer_checkpoints import Checkpoint, folder_of
from .pictures import check_levels, make_pictures, shifted_levels
from .weights import ConversionError, Rule, move_weights, same

#: One of ours that an image model of timm becomes.
ImageModel = ClipVitForImageClassification | ClipVitVisionModel


def from_timm(
    source: nn.Module | Checkpoint, model_args: dict[str, Any] | None = None
) -> ImageModel:
    """An image model of timm: a classifier of ours with its class names, or an image tower.

    A plain ViT becomes ours. Another classifier keeps timm's encoder, in Transformers'
    `TimmWrapperModel`.

    Args:
        source: the model, or a checkpoint: a folder with its config.json, a file of weights in
            such a folder, or a name on the Hub.
        model_args: the arguments that the model was created with besides its name, which a
            checkpoint records.

    Raises:
        ConversionError: it has no class head and is not a plain ViT, or its class head is not one
            linear layer.
    """
    peer: Any = load(source) if isinstance(source, str | Path) else source
    if model_args is None:
        model_args = getattr(peer, "model_args", {})
    try:
        return from_plain(peer)
    except ConversionError as reason:
        return from_other(peer, model_args, reason)


def from_plain(peer: Any) -> ImageModel:
    """A plain ViT of timm as an image tower of ours, with its class head if it has one.

    Raises:
        ConversionError: it has something that ours has not.
    """
    if not getattr(peer, "num_classes", 0):
        return timm_vit.from_timm_vit(peer)
    config = timm_vit.config_of(peer)
    config.id2label = class_names(peer)
    config.label2id = {name: number for number, name in config.id2label.items()}
    model = ClipVitForImageClassification(config)
    rules = [*timm_vit.rules(config, "vision_model."), *head_rules(peer, head_of(peer))]
    move_weights(peer, model, rules, to_ours=True, changed=timm_vit.positions_of(peer))
    return model.to(next(peer.parameters()).dtype).eval()


def from_other(
    peer: Any, model_args: dict[str, Any], reason: ConversionError
) -> ClipVitForImageClassification:
    """A classifier that keeps timm's encoder.

    Args:
        peer: the model.
        model_args: as `from_timm` takes them.
        reason: why its encoder does not become ours.

    Raises:
        ConversionError: it has no class head, or one that is not one linear layer.
    """
    if not getattr(peer, "num_classes", 0):
        raise ConversionError(
            f"{reason}; without a class head, it is a tower as it is: name it as "
            "vision_model_name_or_path"
        ) from reason
    head, names = head_of(peer), class_names(peer)
    arguments = {name: value for name, value in model_args.items() if name != "num_classes"}
    architecture = peer.pretrained_cfg["architecture"]
    backbone = TimmWrapperConfig(architecture=architecture, model_args=arguments)
    images = resolve_images(peer)["input_size"]
    if images[-2] != images[-1]:
        raise ConversionError(f"images of {images[-2]} x {images[-1]} are not square")
    model = ClipVitForImageClassification(
        ClipVitVisionConfig(
            encoder_config=backbone,
            image_size=images[-1],
            num_channels=images[0],
            id2label=names,
            label2id={name: number for number, name in names.items()},
        )
    )
    move_weights(peer, model, [*encoder_rules(model), *head_rules(peer, head)], to_ours=True)
    return model.to(next(peer.parameters()).dtype).eval()


def encoder_rules(model: Any) -> list[Rule]:
    """The weights and statistics of timm's encoder in a classifier of ours."""
    prefix = "vision_model.timm_model."
    names = model.vision_model.timm_model.state_dict()
    return [rule for name in names for rule in same(f"{prefix}{name}", name)]


def head_of(peer: Any) -> nn.Linear:
    """The class head.

    Raises:
        ConversionError: it is not one linear layer.
    """
    head = peer.get_classifier()
    if type(head) is not nn.Linear:
        raise ConversionError(f"a class head {type(head).__name__} is not one linear layer")
    return head


def head_rules(peer: Any, head: nn.Linear) -> list[Rule]:
    """The weights of the class head."""
    name = next(name for name, part in peer.named_modules() if part is head)
    return [
        rule for kind in ("weight", "bias") for rule in same(f"classifier.{kind}", f"{name}.{kind}")
    ]


def class_names(peer: Any) -> dict[int, str]:
    """The names of the classes: the model's own, else ImageNet's by their number, else numbers."""
    names = peer.pretrained_cfg.get("label_names")
    subset = infer_imagenet_subset(peer)
    if names is None and subset is not None:
        names = ImageNetInfo(subset).label_descriptions()
    if names is None or len(names) != peer.num_classes:
        names = [f"LABEL_{number}" for number in range(peer.num_classes)]
    return dict(enumerate(names))


def load(source: Checkpoint) -> Any:
    """The model of a checkpoint, with the arguments that it was created with as `model_args`.

    Raises:
        ConversionError: timm cannot build or fill it, or a pickle holds more than tensors.
    """
    peer = timm_vit.load(source)
    config = Path(folder_of(source)) / "config.json"
    fields = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    peer.model_args = fields.get("model_args") or {}
    return peer


def to_timm(model: ImageModel | ClipVitModel) -> Any:
    """One of ours as an image model of timm, with the class head if it has one.

    Raises:
        ConversionError: its tower is built in a way that timm's ViT is not.
    """
    if not isinstance(model, ClipVitForImageClassification):
        return timm_vit.to_timm_vit(model)
    config: Any = model.config
    tower: Any = model.vision_model
    if config.encoder_config is None:
        peer: Any = timm_vit.to_timm_vit(tower)
        peer.reset_classifier(config.num_labels)
    else:
        backbone = config.encoder_config
        arguments = {**(backbone.model_args or {}), "num_classes": config.num_labels}
        peer = timm.create_model(backbone.architecture, **arguments)
        peer.model_args = backbone.model_args or {}
        rules = [*encoder_rules(model), *head_rules(peer, head_of(peer))]
        move_weights(model, peer, rules, to_ours=False)
    head_of(peer).load_state_dict(model.classifier.state_dict())
    peer.pretrained_cfg["label_names"] = list(config.id2label.values())
    return peer.to(model.dtype).eval()


def save(peer: Any, folder: Path):
    """Write a model of `to_timm` as timm loads it: `timm.create_model("local-dir:FOLDER")`.

    Raises:
        ConversionError: its norms are none that timm's config.json can name.
    """
    if hasattr(peer, "model_args"):
        save_for_hf(peer, str(folder), model_args=peer.model_args, safe_serialization=True)
    else:
        timm_vit.save(peer, folder)


def compare_images(peer: Any, processor: Any, folder: Path) -> float:
    """Prepare the same pictures with timm and with an image processor of Transformers.

    Args:
        peer: a model of timm.
        processor: of the conversion.
        folder: of the checkpoint.

    Returns:
        The largest difference of a pixel, of 255 levels. Of an odd margin, the two cut halves that
        are one pixel apart; the pixels are compared where both see the same.

    Raises:
        ConversionError: they differ by more than rounding.
    """
    fields = resolve_images(peer)
    transform: Any = create_transform(**fields, is_training=False)
    levels = 0.0
    for image in make_pictures(fields["input_size"][-1]):
        expected: torch.Tensor = transform(image.convert("RGB"))
        levels = max(levels, shifted_levels(expected, processor, image))
    return check_levels(levels, "timm")
