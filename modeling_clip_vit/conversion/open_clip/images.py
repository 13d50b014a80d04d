"""Image towers of open_clip: its own ViT, its ResNets, and any model of timm."""

from typing import Any

import timm
import torch
from timm.models import VisionTransformer
from torch import nn

from .. import hf_clip, timm_vit
from ..weights import ConversionError, Rule, module, same
from .parts import TowerPlan, block_fields, block_rules

EMBEDDINGS = "vision_model.embeddings"
WRAPPED = "vision_model.timm_model"


def plan_images(visual: Any) -> TowerPlan:
    """How an image tower becomes ours.

    Raises:
        ConversionError: it has a part that ours has not.
    """
    kind = type(visual).__name__
    if kind == "TimmModel":
        return plan_trunk(visual)
    if kind == "ModifiedResNet":
        return plan_resnet(visual)
    if kind == "VisionTransformer":
        return plan_vit(visual)
    raise ConversionError(f"an image tower of type {kind} is not converted")


def plan_vit(visual: Any) -> TowerPlan:
    """open_clip's own ViT, of CLIP's kind or CLIPA's (Li et al., 2023).

    Raises:
        ConversionError: it pools by attention, or in another way that ours does not.
    """
    poolings = {"tok": "cls", "avg": "mean"}
    if visual.attn_pool is not None or visual.pool_type not in poolings:
        raise ConversionError(
            f"an image tower with attention pooling or pool_type={visual.pool_type!r} is not "
            "converted"
        )
    fields = {
        **block_fields(visual.transformer.resblocks),
        **hf_clip.VISION,
        "image_size": visual.image_size[0],
        "patch_size": visual.patch_size[0],
        "use_cls_token": True,
        "pooling": poolings[visual.pool_type],
        "embedding_norm": not isinstance(visual.ln_pre, nn.Identity),
        "final_norm": "after_pooling" if visual.final_ln_after_pool else "before_pooling",
    }
    rules = [
        *same(f"{EMBEDDINGS}.cls_token", "visual.class_embedding"),
        *same(f"{EMBEDDINGS}.position_embedding.weight", "visual.positional_embedding"),
        *module(f"{EMBEDDINGS}.patch_embedding.projection", "visual.conv1"),
        *module(f"{EMBEDDINGS}.norm", "visual.ln_pre"),
        *module("vision_model.final_norm", "visual.ln_post"),
        Rule(("visual_projection.weight",), ("visual.proj",), is_transposed=True),
        *block_rules(
            "vision_model.encoder.layers",
            "visual.transformer.resblocks",
            fields["num_hidden_layers"],
        ),
    ]
    return TowerPlan(fields, rules)


def plan_trunk(visual: Any) -> TowerPlan:
    """A model of timm: one of our own ViTs where ours can be that, else as it is.

    Raises:
        ConversionError: what follows it has no place, or timm does not know its architecture.
    """
    trunk, changed = visual.trunk, {}
    projection, rules = plan_projection(visual)
    fields = native_fields(trunk)
    if fields is not None:
        rules += timm_vit.rules(timm_vit.config_of(trunk), "vision_model.", "visual.trunk.")
        positions = timm_vit.positions_of(trunk)
        changed = {f"visual.trunk.{name}": weight for name, weight in positions.items()}
    else:
        fields = wrapped_fields(trunk, visual.image_size[0])
        head = classifier_of(trunk)[0]
        rules += [
            rule
            for name in trunk.state_dict()
            if not (head and name.startswith(f"{head}."))
            for rule in same(f"{WRAPPED}.{name}", f"visual.trunk.{name}")
        ]
    return TowerPlan({**fields, **projection}, rules, changed)


def plan_projection(visual: Any) -> tuple[dict[str, Any], list[Rule]]:
    """The fields and weights of what projects the output of a model of timm.

    That is its classifier, or what open_clip's adapter puts after it: a linear layer or two.

    Raises:
        ConversionError: the adapter pools by attention, or there is more than one projection.
    """
    name, layer = classifier_of(visual.trunk)
    layers = dict(visual.head.named_children())
    extra = set(layers) - {"drop", "proj", "mlp"}
    if extra or (name and layers):
        raise ConversionError(f"a tower of timm with {visual.head} after it is not converted")
    if "mlp" in layers:
        mlp = layers["mlp"]
        fields = {
            "projection_type": "mlp",
            "projection_hidden_size": mlp.fc1.out_features,
            "projection_hidden_bias": mlp.fc1.bias is not None,
            "projection_bias": mlp.fc2.bias is not None,
        }
        first, second = "visual_projection.0", "visual_projection.2"
        return fields, module(first, "visual.head.mlp.fc1") + module(second, "visual.head.mlp.fc2")
    theirs = f"trunk.{name}" if name else "head.proj"
    layer = layers.get("proj", layer)
    if layer is None:
        return {"projection_type": "none"}, []
    fields = {"projection_type": "linear", "projection_bias": layer.bias is not None}
    return fields, module("visual_projection", f"visual.{theirs}")


def classifier_of(trunk: Any) -> tuple[str | None, Any]:
    """The name and the layer of a timm model's linear classifier; None where it has none."""
    layer = trunk.get_classifier()
    if not isinstance(layer, nn.Linear):
        return None, None
    return next(name for name, module in trunk.named_modules() if module is layer), layer


def native_fields(trunk: Any) -> dict[str, Any] | None:
    """Fields of our own configuration of a model of timm; None where ours cannot be that."""
    if not isinstance(trunk, VisionTransformer):
        return None
    patch_size = trunk.patch_embed.patch_size
    # timm leaves out the pixels at the edge that fill no patch.
    if (input_size_of(trunk) or patch_size)[0] % patch_size[0]:
        return None
    try:
        return timm_vit.config_of(trunk).to_dict()
    except ConversionError:
        return None


def wrapped_fields(trunk: Any, image_size: int) -> dict[str, Any]:
    """Fields that build a model of timm as a tower.

    Raises:
        ConversionError: timm has no architecture of that name.
    """
    name = trunk.pretrained_cfg.get("architecture")
    if not name or not timm.is_model(name):
        raise ConversionError(
            f"timm {timm.__version__} has no architecture {name!r}: it cannot build this image "
            "tower again"
        )
    with torch.device("meta"):  # shapes without weights
        usual = timm.create_model(name, num_classes=0)
    arguments: dict[str, Any] = {}
    if pooling_of(trunk) != pooling_of(usual):
        arguments["global_pool"] = pooling_of(trunk)
    if input_size_of(trunk) != input_size_of(usual):
        arguments["img_size"] = list(input_size_of(trunk) or ())
    return {
        "model_type": "timm_wrapper",
        "architecture": name,
        "model_args": arguments,
        "image_size": image_size,
    }


def pooling_of(trunk: Any) -> str | None:
    """How a model of timm pools, where it says."""
    for holder in (trunk, getattr(trunk, "head", None)):
        pooling = getattr(holder, "global_pool", None)
        pooling = getattr(pooling, "pool_type", pooling)
        if isinstance(pooling, str):
            return pooling
    return None


def input_size_of(trunk: Any) -> tuple[int, ...] | None:
    """The size of images that a model of timm has positions for, where it says."""
    return getattr(getattr(trunk, "patch_embed", None), "img_size", None)


def plan_resnet(visual: Any) -> TowerPlan:
    """CLIP's ResNet with attention pooling (Radford et al., 2021, section 2.4), which timm has too.

    Raises:
        ConversionError: timm has none of this depth and width.
    """
    depths = [len(getattr(visual, f"layer{number}")) for number in range(1, 5)]
    width, heads = visual.conv3.out_channels, visual.attnpool.num_heads
    fields = {
        "model_type": "timm_wrapper",
        "architecture": resnet_name(depths, width, heads),
        "model_args": {"img_size": visual.image_size},
        "image_size": visual.image_size,
        "projection_type": "linear",
        "projection_bias": True,
    }
    rules: list[Rule] = []
    for number in (1, 2, 3):
        rules += conv_rules(f"stem.conv{number}", f"visual.conv{number}", f"visual.bn{number}")
    places = {1: "conv1_1x1", 2: "conv2_kxk", 3: "conv3_1x1"}
    for stage, depth in enumerate(depths):
        ours, theirs = f"stages.{stage}", f"visual.layer{stage + 1}"
        shortcut = f"{theirs}.0.downsample"
        rules += conv_rules(f"{ours}.0.shortcut.conv", f"{shortcut}.0", f"{shortcut}.1")
        for block in range(depth):
            for number, place in places.items():
                conv, norm = (f"{theirs}.{block}.{part}{number}" for part in ("conv", "bn"))
                rules += conv_rules(f"{ours}.{block}.{place}", conv, norm)
    pool = f"{WRAPPED}.head"
    rules += same(f"{pool}.pos_embed", "visual.attnpool.positional_embedding")
    for part in ("q", "k", "v"):
        rules += module(f"{pool}.{part}", f"visual.attnpool.{part}_proj")
    rules += module("visual_projection", "visual.attnpool.c_proj")
    return TowerPlan(fields, rules)


def conv_rules(ours: str, conv: str, norm: str) -> list[Rule]:
    """A convolution of timm with its batch norm, and both as open_clip names them."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    rules = same(f"{WRAPPED}.{ours}.conv.weight", f"{conv}.weight")
    rules += module(f"{WRAPPED}.{ours}.bn", norm)
    for name in statistics:
        rules += same(f"{WRAPPED}.{ours}.bn.{name}", f"{norm}.{name}")
    return rules


def resnet_name(depths: list[int], width: int, heads: int) -> str:
    """The architecture of timm that is CLIP's ResNet of this size.

    Raises:
        ConversionError: there is none.
    """
    for name in timm.list_models("resnet*_clip"):
        with torch.device("meta"):
            if resnet_shape(timm.create_model(name, num_classes=0)) == (depths, width, heads):
                return name
    raise ConversionError(
        f"timm has no CLIP ResNet of {depths} blocks, width {width} and {heads} heads"
    )


def resnet_shape(trunk: Any) -> tuple[list[int], int, int]:
    """The blocks of each stage, the width of the stem and the heads of a CLIP ResNet of timm."""
    depths = [len(stage) for stage in trunk.stages]
    return depths, trunk.stem.conv3.conv.out_channels, trunk.head.num_heads
