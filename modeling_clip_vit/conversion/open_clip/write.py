"""One of our CLIPs as one of open_clip."""

from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedConfig

from ...configuration_clip_vit import ClipVitConfig, ClipVitTextConfig, is_foreign
from ...modeling_clip_vit import ClipVitModel
from ...utils.folders import write_json
from .. import timm_vit
from ..weights import ConversionError, move_weights, ratio
from .images import pooling_of, resnet_shape
from .model import import_open_clip, plan
from .texts import POOLER

#: How the published models of SigLIP's type prepare images.
SIGLIP_IMAGES = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}
#: Fields that change only how a model is trained, or that others decide.
UNCOMPARED = {
    "adjust_glu_size",
    "attention_bias",
    "attention_dropout",
    "bos_token_id",
    "conv_stem_kernels",
    "conv_stem_strides",
    "conv_stem_widths",
    "drop_path_rate",
    "embedding_dropout",
    "hidden_dropout",
    "initializer_range",
    "num_norm_groups",
    "pad_token_id",
    "patch_dropout",
    "rope_theta",
}
HF_POOLINGS = {"mean": "mean_pooler", "cls": "cls_last_hidden_state_pooler", None: "cls_pooler"}
TEXT_POOLINGS = {"eos": "eos", "last": "last", "cls": "first"}


def to_open_clip(model: ClipVitModel) -> nn.Module:
    """One of ours as one of open_clip.

    Raises:
        ConversionError: it is built in a way that open_clip's models are not; the message names
            the fields.
    """
    open_clip = import_open_clip()
    arguments = model_arguments(model.config)
    is_custom = arguments.pop("custom_text", False)
    peer: Any = (open_clip.CustomTextCLIP if is_custom else open_clip.CLIP)(**arguments)
    config, rules, _ = plan(peer)
    require_same(model.config, config)
    move_weights(model, peer, rules, to_ours=False, left_out=unused_weights(model.config))
    return peer.eval()


def unused_weights(config: ClipVitConfig) -> str:
    """What the names of weights begin with that are there only because AutoModel builds them."""
    text = config.text_config
    return f"text_model.{POOLER}" if is_foreign(text) and text.pooling is not None else ""


def require_same(wanted: ClipVitConfig, built: ClipVitConfig):
    """Check that what open_clip built is what our configuration says.

    Raises:
        ConversionError: it is something else; the message names the fields.
    """
    wrong = [
        f"{name}={before!r} (it has {after!r}) in the {tower} tower"
        for tower, mine, theirs in (
            ("image", wanted.vision_config, built.vision_config),
            ("text", wanted.text_config, built.text_config),
        )
        for name, (before, after) in differing_fields(mine, theirs).items()
    ]
    if wrong:
        raise ConversionError(f"open_clip cannot hold {', '.join(wrong)}")


def differing_fields(wanted: Any, built: Any) -> dict[str, tuple[Any, Any]]:
    """Fields of a tower that differ between two configurations and change what it computes."""
    names = {"model_type", "architecture", "model_args", "projection_type", "projection_bias"}
    if not is_foreign(wanted):
        # Those of every configuration, such as dtype, say nothing of the architecture.
        own = {*type(wanted).__dataclass_fields__} - {*PreTrainedConfig.__dataclass_fields__}
        names = {"model_type", *own} - UNCOMPARED
    if getattr(wanted, "pooling", None) != "eos":
        names -= {"eos_token_id"}
    pairs = {name: (getattr(wanted, name, None), getattr(built, name, None)) for name in names}
    if "layer_scale_init_value" in pairs:  # whether there is one
        before, after = pairs["layer_scale_init_value"]
        pairs["layer_scale_init_value"] = (before is not None, after is not None)
    if wanted.projection_type != "mlp":
        pairs = {name: pair for name, pair in pairs.items() if "projection_hidden" not in name}
    # An empty dict of arguments is as good as none.
    return {
        name: (before, after)
        for name, (before, after) in sorted(pairs.items())
        if before != after and (before or after)
    }


def model_arguments(config: ClipVitConfig) -> dict:
    """What open_clip builds the model from: the `model_cfg` of an open_clip_config.json.

    Raises:
        ConversionError: open_clip has no such tower.
    """
    vision, text = config.vision_config, config.text_config
    arguments: dict[str, Any] = {
        "embed_dim": config.projection_dim,
        "text_cfg": encoder_arguments(text) if is_foreign(text) else text_arguments(text),
        "vision_cfg": vision_arguments(vision),
    }
    acts = [getattr(tower, "hidden_act", None) for tower in (vision, text) if not is_foreign(tower)]
    arguments["quick_gelu"] = "quick_gelu" in acts
    if "timm_model_name" in arguments["vision_cfg"] or is_foreign(text):
        arguments["custom_text"] = True
    if config.logit_bias_init_value is not None:
        arguments["init_logit_bias"] = config.logit_bias_init_value
    return arguments


def encoder_arguments(text: Any) -> dict[str, Any]:
    """Arguments of a text tower of Transformers, which open_clip builds by its name.

    Raises:
        ConversionError: the name is not known, or open_clip does not pool so.
    """
    name = getattr(text, "_name_or_path", "")
    if not name:
        raise ConversionError(
            f"open_clip cannot hold a text tower of type {text.model_type!r} without a name: it "
            "builds those of Transformers by their name on the Hub"
        )
    if text.pooling not in HF_POOLINGS:
        raise ConversionError(f"open_clip cannot hold pooling={text.pooling!r} in the text tower")
    return {
        "hf_model_name": name,
        "hf_model_pretrained": False,
        "hf_pooler_type": HF_POOLINGS[text.pooling],
        "hf_proj_type": None if text.projection_type == "none" else text.projection_type,
    }


def text_arguments(text: ClipVitTextConfig) -> dict[str, Any]:
    """Arguments of open_clip's own text tower.

    Raises:
        ConversionError: it has no such pooling or activation.
    """
    if text.pooling not in TEXT_POOLINGS:
        raise ConversionError(f"open_clip cannot hold pooling={text.pooling!r} in the text tower")
    if text.hidden_act not in ("gelu", "quick_gelu", "gelu_pytorch_tanh"):
        raise ConversionError(
            f"open_clip cannot hold hidden_act={text.hidden_act!r} in the text tower"
        )
    pooling: dict[str, Any] = {"pool_type": TEXT_POOLINGS[text.pooling]}
    if text.pooling == "eos" and text.eos_token_id == text.vocab_size - 1:
        pooling = {"pool_type": "argmax"}  # the largest id
    elif text.pooling == "eos":
        pooling["eos_id"] = text.eos_token_id
    arguments = {
        "context_length": text.max_position_embeddings,
        "vocab_size": text.vocab_size,
        "width": text.hidden_size,
        "heads": text.num_attention_heads,
        "layers": text.num_hidden_layers,
        "mlp_ratio": ratio(text.intermediate_size, text.hidden_size),
        "no_causal_mask": not text.is_causal,
        "proj_type": text.projection_type,
        "proj_bias": text.projection_bias,
        "ls_init_value": text.layer_scale_init_value,
        **pooling,
    }
    if text.layer_norm_eps != 1e-5:
        arguments["norm_kwargs"] = {"eps": text.layer_norm_eps}
    if text.hidden_act == "gelu_pytorch_tanh":
        arguments["act_kwargs"] = {"approximate": "tanh"}
    return arguments


def vision_arguments(vision: Any) -> dict[str, Any]:
    """Arguments of an image tower: open_clip's own where it has such a one, or timm's.

    Raises:
        ConversionError: neither has.
    """
    if vision.model_type == "timm_wrapper":
        return wrapped_arguments(vision)
    if is_foreign(vision):
        raise ConversionError(f"open_clip cannot hold a tower of type {vision.model_type!r}")
    if not is_own(vision):
        return trunk_arguments(vision)
    return {
        "layers": vision.num_hidden_layers,
        "width": vision.hidden_size,
        "head_width": vision.hidden_size // vision.num_attention_heads,
        "mlp_ratio": ratio(vision.intermediate_size, vision.hidden_size),
        "patch_size": vision.patch_size,
        "image_size": vision.image_size,
        "ls_init_value": vision.layer_scale_init_value,
        "no_ln_pre": not vision.embedding_norm,
        "final_ln_after_pool": vision.final_norm == "after_pooling",
        "pool_type": {"cls": "tok", "mean": "avg"}[vision.pooling],
    }


def is_own(vision: Any) -> bool:
    """Whether an image tower of ours is more like open_clip's own ViT than like one of timm."""
    return (
        vision.pooling in ("cls", "mean")
        and vision.use_cls_token
        and not vision.patch_bias
        and vision.projection_type == "linear"
        and not vision.projection_bias
    )


def wrapped_arguments(vision: Any) -> dict[str, Any]:
    """Arguments of an image tower that is a model of timm."""
    with torch.device("meta"):  # shapes without weights
        usual = timm.create_model(vision.architecture, num_classes=0)
    if vision.architecture.endswith("_clip") and hasattr(usual, "stages"):
        depths, width, heads = resnet_shape(usual)
        return {
            "layers": depths,
            "width": width,
            "head_width": width * 32 // heads,
            "image_size": vision.image_size,
        }
    pooling = (vision.model_args or {}).get("global_pool", pooling_of(usual))
    # The classifier of a model of timm has a bias, and open_clip's adapter has none.
    is_classifier = vision.projection_type == "linear" and vision.projection_bias
    is_adapter = not is_classifier and vision.projection_type != "none"
    return {
        "timm_model_name": vision.architecture,
        "timm_model_pretrained": False,
        "timm_pool": "" if is_adapter else pooling,
        "timm_proj": None if is_classifier else vision.projection_type,
        "timm_proj_bias": bool(is_adapter and vision.projection_bias),
        "image_size": vision.image_size,
    }


def trunk_arguments(vision: Any) -> dict[str, Any]:
    """Arguments of an image tower of ours that timm has too; open_clip builds it by its name alone.

    Raises:
        ConversionError: no architecture of timm is built so.
    """
    kind = {"map": "siglip", "cls": "clip"}.get(vision.pooling, "gap")
    for name in timm.list_models(f"*patch{vision.patch_size}_{kind}*"):
        with torch.device("meta"):  # shapes without weights
            trunk = timm.create_model(name, num_classes=0)
        if has_shape(trunk, vision):
            is_classifier = vision.projection_type == "linear" and vision.projection_bias
            return {
                "timm_model_name": name,
                "timm_model_pretrained": False,
                "timm_pool": pooling_of(trunk),
                "timm_proj": None if is_classifier else vision.projection_type,
                "image_size": vision.image_size,
            }
    raise ConversionError(
        f"timm has no {'SigLIP' if kind == 'siglip' else 'ViT'} whose image tower has hidden_size="
        f"{vision.hidden_size}, intermediate_size={vision.intermediate_size}, num_hidden_layers="
        f"{vision.num_hidden_layers}, num_attention_heads={vision.num_attention_heads}, image_size="
        f"{vision.image_size}, patch_size={vision.patch_size}, hidden_act={vision.hidden_act!r} "
        f"and layer_norm_eps={vision.layer_norm_eps}, and open_clip builds those of timm alone"
    )


def has_shape(trunk: Any, vision: Any) -> bool:
    """Whether an architecture of timm builds the image tower of a configuration of ours."""
    try:
        fields = timm_vit.fields_of(trunk)
    except ConversionError:  # timm builds it from other parts
        return False
    return all(getattr(vision, name) == value for name, value in fields.items())


def save(peer: Any, folder: Path, config: ClipVitConfig):
    """Write a model of `to_open_clip` as open_clip loads it.

    Args:
        peer: the model.
        folder: one that is there.
        config: our configuration of it.
    """
    is_siglip = getattr(config.vision_config, "pooling", None) == "map"
    preprocess = SIGLIP_IMAGES if is_siglip else {}
    content = {"model_cfg": model_arguments(config), "preprocess_cfg": preprocess}
    write_json(folder / "open_clip_config.json", content)
    state = {key: value.contiguous() for key, value in peer.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")
