"""open_clip: its own ViT, and the SigLIP type with a tower of timm."""

from pathlib import Path
from typing import Any

import timm
from safetensors.torch import save_file
from timm.models import VisionTransformer
from torch import nn

from ..configuration_clip_vit import ClipVitConfig
from ..modeling_clip_vit import ClipVitModel
from ..utils.folders import write_json
from ..utils.packages import require
from . import hf_clip, hf_siglip, timm_vit
from .peer_checkpoints import Checkpoint, folder_of, tensors_only
from .weights import (
    ConversionError,
    Rule,
    blocks,
    module,
    move_weights,
    ratio,
    require_classic,
    same,
)

BLOCK = {
    "attention.out_proj": "attn.out_proj",
    "norm1": "ln_1",
    "norm2": "ln_2",
    "feed_forward.fc1": "mlp.c_fc",
    "feed_forward.fc2": "mlp.c_proj",
}
ACTIVATIONS = {"GELU": "gelu", "QuickGELU": "quick_gelu"}
#: How the published models of SigLIP's type prepare images.
SIGLIP_IMAGES = {
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
    "interpolation": "bicubic",
    "resize_mode": "squash",
}


def from_open_clip(source: nn.Module | Checkpoint) -> ClipVitModel:
    """A CLIP of open_clip as one of ours.

    Args:
        source: a model of open_clip, a folder with its open_clip_config.json and weights, or a file
            of weights in such a folder.

    Raises:
        ConversionError: it has a part that ours has not.
    """
    peer: Any = load(source) if isinstance(source, str | Path) else source
    if type(peer).__name__ not in ("CLIP", "CustomTextCLIP"):
        raise ConversionError(
            f"a {type(peer).__name__} of open_clip has more than two towers: CLIP and "
            "CustomTextCLIP are converted"
        )
    has_trunk = isinstance(getattr(peer.visual, "trunk", None), VisionTransformer)
    text = getattr(peer, "text", peer)
    vision = trunk_fields(peer.visual) if has_trunk else vision_fields(peer.visual)
    size = projection_dim(text)
    config = ClipVitConfig(
        vision_config=vision,
        text_config=text_fields(text),
        projection_dim=size,
        logit_bias_init_value=None if peer.logit_bias is None else peer.logit_bias.item(),
        logit_scale_max=None if has_trunk else 100.0,
    )
    model = ClipVitModel(config)
    own_rules = rules(config, has_trunk, "" if text is peer else "text.")
    move_weights(peer, model, own_rules, to_ours=True)
    return model.eval()


def import_open_clip():
    """Import open_clip, which only this conversion needs.

    Raises:
        MissingPackageError: it is not installed.
    """
    require(("open_clip",), "convert", "a conversion from or to open_clip")
    import open_clip

    return open_clip


def load(source: Checkpoint) -> Any:
    """The model of a folder with open_clip_config.json, with the weights in it or those of a file.

    Raises:
        ConversionError: the weights are a pickle of more than tensors, or not those of the model.
    """
    open_clip = import_open_clip()
    is_file = Path(source).is_file()
    try:
        with tensors_only(source):
            peer = open_clip.create_model(
                f"local-dir:{folder_of(source)}",
                load_weights=not is_file,
                require_pretrained=not is_file,
            )
            if is_file:
                open_clip.load_checkpoint(peer, str(source), weights_only=True)
    # open_clip's errors have no class of their own.
    except RuntimeError as error:
        raise ConversionError(f"open_clip cannot load {str(source)!r}: {error}") from error
    return peer.eval()


def save(peer: Any, folder: Path, config: ClipVitConfig):
    """Write a model of `to_open_clip` as open_clip loads it.

    Args:
        peer: the model.
        folder: one that is there.
        config: our configuration of it.
    """
    preprocess = SIGLIP_IMAGES if is_siglip(config) else {}
    content = {"model_cfg": model_arguments(config), "preprocess_cfg": preprocess}
    write_json(folder / "open_clip_config.json", content)
    state = {key: value.contiguous() for key, value in peer.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


def projection_dim(text) -> int:
    """Size of the joint space.

    Raises:
        ConversionError: the text tower is not open_clip's own, or has no projection.
    """
    projection = getattr(text, "text_projection", None)
    if projection is None or not hasattr(text, "token_embedding"):
        raise ConversionError(
            f"a text tower {type(text).__name__} is not open_clip's own with a projection"
        )
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]


def trunk_fields(visual) -> dict:
    """Fields of the configuration of an image tower of timm.

    Raises:
        ConversionError: it is not a plain ViT without a projection.
    """
    if len(visual.head):
        raise ConversionError(f"a tower of timm with {visual.head} after it is not converted")
    return {**timm_vit.config_of(visual.trunk).to_dict(), "projection_type": "none"}


def vision_fields(visual) -> dict:
    """Fields of the configuration of open_clip's own image tower.

    Raises:
        ConversionError: it is not a plain ViT with a class token.
    """
    blocks_ = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks_ is None or visual.attn_pool is not None or visual.pool_type != "tok":
        raise ConversionError(f"an image tower {type(visual).__name__} is not a plain ViT")
    if not isinstance(visual.ln_pre, nn.LayerNorm):
        raise ConversionError("an image tower without ln_pre is not converted")
    return {
        **block_fields(blocks_),
        **hf_clip.VISION,
        "image_size": visual.image_size[0],
        "patch_size": visual.patch_size[0],
    }


def text_fields(text) -> dict:
    """Fields of the configuration of open_clip's text tower.

    Raises:
        ConversionError: it pools in a way that ours does not.
    """
    pool_type = getattr(text, "pool_type", None) or text.text_pool_type
    poolings = {"argmax": "eos", "last": "last", "first": "cls"}
    if pool_type not in poolings:
        raise ConversionError(f"a text tower with pool_type={pool_type!r} is not converted")
    fields = hf_siglip.TEXT if pool_type == "last" else hf_clip.TEXT
    has_bias = isinstance(text.text_projection, nn.Linear) and text.text_projection.bias is not None
    return {
        **block_fields(text.transformer.resblocks),
        **fields,
        "pooling": poolings[pool_type],
        "is_causal": text.attn_mask is not None,
        "projection_bias": has_bias,
        "vocab_size": text.token_embedding.num_embeddings,
        "max_position_embeddings": text.positional_embedding.shape[0],
        # open_clip takes the token with the largest id for the end.
        "eos_token_id": text.token_embedding.num_embeddings - 1,
        "bos_token_id": None,
        "pad_token_id": 0,
    }


def block_fields(blocks_) -> dict:
    """Fields that tell the shape of open_clip's blocks.

    Raises:
        ConversionError: a block has an activation or a layer scale that this does not know.
    """
    block = blocks_[0]
    act = ACTIVATIONS.get(type(block.mlp.gelu).__name__)
    if act is None or not isinstance(block.ls_1, nn.Identity):
        raise ConversionError(f"blocks with {block.mlp.gelu} and {block.ls_1} are not converted")
    if getattr(block.mlp.gelu, "approximate", "none") == "tanh":
        act = "gelu_pytorch_tanh"
    return {
        "hidden_size": block.attn.embed_dim,
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": len(blocks_),
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": act,
        "layer_norm_eps": block.ln_1.eps,
    }


def is_siglip(config: ClipVitConfig) -> bool:
    """Whether a model is of SigLIP's type, which open_clip builds with an image tower of timm."""
    return getattr(config.vision_config, "pooling", None) == "map"


def to_open_clip(model: ClipVitModel) -> nn.Module:
    """One of ours, of CLIP's or SigLIP's type, as one of open_clip.

    Raises:
        ConversionError: it is built in a way that open_clip's models are not.
    """
    open_clip = import_open_clip()
    config = model.config
    has_trunk = is_siglip(config)
    check = check_siglip if has_trunk else check_clip
    check(config)
    arguments = model_arguments(config)
    is_custom = arguments.pop("custom_text", False)
    peer: Any = (open_clip.CustomTextCLIP if is_custom else open_clip.CLIP)(**arguments)
    own_rules = rules(config, has_trunk, "text." if is_custom else "")
    move_weights(model, peer, own_rules, to_ours=False)
    return peer.eval()


def check_clip(config: ClipVitConfig):
    """Refuse what open_clip's own ViT cannot hold.

    Raises:
        ConversionError: the message names the fields.
    """
    vision, text = config.vision_config, config.text_config
    require_classic(vision, {**hf_clip.VISION, "layer_norm_eps": 1e-5}, "open_clip's CLIP")
    expected = {**hf_clip.TEXT, "hidden_act": vision.hidden_act, "layer_norm_eps": 1e-5}
    require_classic(text, expected, "open_clip's CLIP")
    if vision.hidden_act not in ACTIVATIONS.values():
        raise ConversionError(f"open_clip's CLIP cannot hold hidden_act={vision.hidden_act!r}")
    if text.eos_token_id != text.vocab_size - 1:
        raise ConversionError(
            f"open_clip takes the largest id for the end, but eos_token_id={text.eos_token_id} of "
            f"vocab_size={text.vocab_size}"
        )


def check_siglip(config: ClipVitConfig):
    """Refuse what open_clip's models of SigLIP's type cannot hold.

    Raises:
        ConversionError: the message names the fields.
    """
    name = "open_clip's SigLIP"
    require_classic(config.vision_config, hf_siglip.VISION, name)
    require_classic(config.text_config, hf_siglip.TEXT, name)
    act = config.text_config.hidden_act
    if act not in ("gelu", "gelu_pytorch_tanh"):
        raise ConversionError(f"{name} cannot hold hidden_act={act!r} in the text tower")


def model_arguments(config: ClipVitConfig) -> dict:
    """What open_clip builds the model from: the `model_cfg` of an open_clip_config.json.

    Raises:
        ConversionError: timm has no architecture with such an image tower.
    """
    vision, text = config.vision_config, config.text_config
    arguments: dict[str, Any] = {
        "embed_dim": config.projection_dim,
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": ratio(text.intermediate_size, text.hidden_size),
        },
    }
    if is_siglip(config):
        arguments["custom_text"] = True
        arguments["vision_cfg"] = trunk_arguments(vision)
        arguments["text_cfg"] |= {
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": text.layer_norm_eps},
        }
        if text.hidden_act == "gelu_pytorch_tanh":
            arguments["text_cfg"]["act_kwargs"] = {"approximate": "tanh"}
    else:
        arguments["vision_cfg"] = vision_arguments(vision)
        arguments["quick_gelu"] = vision.hidden_act == "quick_gelu"
    if config.logit_bias_init_value is not None:
        arguments["init_logit_bias"] = config.logit_bias_init_value
    return arguments


def vision_arguments(vision) -> dict:
    """Arguments of open_clip's own image tower."""
    return {
        "layers": vision.num_hidden_layers,
        "width": vision.hidden_size,
        "head_width": vision.hidden_size // vision.num_attention_heads,
        "mlp_ratio": ratio(vision.intermediate_size, vision.hidden_size),
        "patch_size": vision.patch_size,
        "image_size": vision.image_size,
    }


def trunk_arguments(vision) -> dict:
    """Arguments of an image tower of timm, which open_clip builds by its name alone.

    Raises:
        ConversionError: no architecture of timm is built so.
    """
    for name in timm.list_models(f"*patch{vision.patch_size}_siglip*"):
        # On the meta device it has shapes without weights.
        trunk = timm.create_model(name, num_classes=0, device="meta")
        if has_shape(trunk, vision):
            return {
                "timm_model_name": name,
                "timm_model_pretrained": False,
                "timm_pool": "map",
                "timm_proj": "none",
                "image_size": vision.image_size,
            }
    raise ConversionError(
        f"timm has no SigLIP whose image tower has hidden_size={vision.hidden_size}, "
        f"intermediate_size={vision.intermediate_size}, num_hidden_layers="
        f"{vision.num_hidden_layers}, num_attention_heads={vision.num_attention_heads}, image_size="
        f"{vision.image_size}, patch_size={vision.patch_size}, hidden_act={vision.hidden_act!r} "
        f"and layer_norm_eps={vision.layer_norm_eps}, and open_clip builds those of timm alone"
    )


def has_shape(trunk: Any, vision) -> bool:
    """Whether an architecture of timm builds the image tower of a configuration of ours."""
    try:
        fields = timm_vit.fields_of(trunk)
    except ConversionError:  # timm builds it from other parts
        return False
    return all(getattr(vision, name) == value for name, value in fields.items())


def rules(config: ClipVitConfig, has_trunk: bool, text: str) -> list[Rule]:
    """Which weights belong together.

    Args:
        config: our configuration.
        has_trunk: whether the image tower is one of timm.
        text: what the names of the text tower's weights begin with.
    """
    count = config.text_config.num_hidden_layers
    result = [
        *same("similarity.logit_scale", "logit_scale"),
        *same("similarity.logit_bias", "logit_bias"),
        *module("text_model.embeddings.token_embedding", f"{text}token_embedding"),
        *same("text_model.embeddings.position_embedding.weight", f"{text}positional_embedding"),
        *module("text_model.final_norm", f"{text}ln_final"),
        *block_rules("text_model.encoder.layers", f"{text}transformer.resblocks", count),
        *module("text_projection", f"{text}text_projection"),
        Rule(("text_projection.weight",), (f"{text}text_projection",), is_transposed=True),
    ]
    if has_trunk:
        return [*result, *timm_vit.rules(config.vision_config, "vision_model.", "visual.trunk.")]
    embeddings = "vision_model.embeddings"
    count = config.vision_config.num_hidden_layers
    return [
        *result,
        *same(f"{embeddings}.cls_token", "visual.class_embedding"),
        *same(f"{embeddings}.position_embedding.weight", "visual.positional_embedding"),
        *module(f"{embeddings}.patch_embedding.projection", "visual.conv1"),
        *module(f"{embeddings}.norm", "visual.ln_pre"),
        *module("vision_model.final_norm", "visual.ln_post"),
        Rule(("visual_projection.weight",), ("visual.proj",), is_transposed=True),
        *block_rules("vision_model.encoder.layers", "visual.transformer.resblocks", count),
    ]


def block_rules(ours: str, theirs: str, count: int) -> list[Rule]:
    """All blocks of a tower; open_clip keeps queries, keys and values together, as we do."""
    qkv = [
        Rule(
            (f"{ours}.{layer}.attention.qkv_proj.{kind}",),
            (f"{theirs}.{layer}.attn.in_proj_{kind}",),
        )
        for layer in range(count)
        for kind in ("weight", "bias")
    ]
    return [*qkv, *blocks(count, ours, theirs, BLOCK)]
