"""open_clip: its own ViT, and the SigLIP type with a tower of timm."""

from typing import Any

from torch import nn

from ..configuration_clip_vit import ClipVitConfig
from ..modeling_clip_vit import ClipVitModel
from . import hf_clip, hf_siglip, timm_vit
from .weights import (
    ConversionError,
    Rule,
    blocks,
    module,
    move_weights,
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


def from_open_clip(source: nn.Module | str) -> ClipVitModel:
    """A CLIP of open_clip as one of ours.

    Args:
        source: a model of open_clip, or a folder with its open_clip_config.json and weights.

    Raises:
        ConversionError: it has a part that ours has not.
    """
    peer: Any = load(source) if isinstance(source, str) else source
    is_siglip = hasattr(peer.visual, "trunk")
    text = peer.text if hasattr(peer, "text") else peer
    config = ClipVitConfig(
        vision_config=(
            {
                **timm_vit.config_of(peer.visual.trunk).to_dict(),
                "projection_type": "none",
            }
            if is_siglip
            else vision_fields(peer.visual)
        ),
        text_config=text_fields(text, is_custom=text is not peer),
        projection_dim=projection_dim(text),
        logit_bias_init_value=None if peer.logit_bias is None else peer.logit_bias.item(),
        logit_scale_max=None if is_siglip else 100.0,
    )
    model = ClipVitModel(config)
    move_weights(peer, model, rules(config, is_siglip), to_ours=True)
    return model.eval()


def import_open_clip():
    """The package, which only this conversion needs.

    Raises:
        ConversionError: it is not installed.
    """
    try:
        import open_clip
    except ImportError as error:
        raise ConversionError(
            "open_clip is not installed: pip install 'clip-vit[convert]', or uv run --extra convert"
        ) from error
    return open_clip


def load(folder: str) -> Any:
    """The model of a folder with open_clip_config.json and open_clip_model.safetensors."""
    open_clip = import_open_clip()

    return open_clip.create_model(f"local-dir:{folder}").eval()


def projection_dim(text) -> int:
    """Size of the joint space."""
    projection = text.text_projection
    return projection.out_features if isinstance(projection, nn.Linear) else projection.shape[1]


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


def text_fields(text, is_custom: bool) -> dict:
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
    return {
        "hidden_size": block.attn.embed_dim,
        "intermediate_size": block.mlp.c_fc.out_features,
        "num_hidden_layers": len(blocks_),
        "num_attention_heads": block.attn.num_heads,
        "hidden_act": act,
        "layer_norm_eps": block.ln_1.eps,
    }


def to_open_clip(model: ClipVitModel) -> nn.Module:
    """One of ours, of CLIP's type, as a CLIP of open_clip.

    Raises:
        ConversionError: it is built in a way that open_clip's own ViT is not.
    """
    open_clip = import_open_clip()

    config = model.config
    vision, text = config.vision_config, config.text_config
    require_classic(vision, {**hf_clip.VISION, "layer_norm_eps": 1e-5}, "open_clip's CLIP")
    require_classic(text, {**hf_clip.TEXT, "hidden_act": vision.hidden_act}, "open_clip's CLIP")
    if vision.hidden_act not in ACTIVATIONS.values():
        raise ConversionError(f"open_clip's CLIP cannot hold hidden_act={vision.hidden_act!r}")
    if text.eos_token_id != text.vocab_size - 1:
        raise ConversionError(
            f"open_clip takes the largest id for the end, but eos_token_id={text.eos_token_id} of "
            f"vocab_size={text.vocab_size}"
        )
    peer: Any = open_clip.CLIP(**model_arguments(config))
    move_weights(model, peer, rules(config, is_siglip=False), to_ours=False)
    return peer.eval()


def model_arguments(config: ClipVitConfig) -> dict:
    """What open_clip builds the model from: the `model_cfg` of an open_clip_config.json."""
    vision, text = config.vision_config, config.text_config
    arguments = {
        "embed_dim": config.projection_dim,
        "vision_cfg": {
            "layers": vision.num_hidden_layers,
            "width": vision.hidden_size,
            "head_width": vision.hidden_size // vision.num_attention_heads,
            "mlp_ratio": vision.intermediate_size / vision.hidden_size,
            "patch_size": vision.patch_size,
            "image_size": vision.image_size,
        },
        "text_cfg": {
            "context_length": text.max_position_embeddings,
            "vocab_size": text.vocab_size,
            "width": text.hidden_size,
            "heads": text.num_attention_heads,
            "layers": text.num_hidden_layers,
            "mlp_ratio": text.intermediate_size / text.hidden_size,
        },
        "quick_gelu": vision.hidden_act == "quick_gelu",
    }
    if config.logit_bias_init_value is not None:
        arguments["init_logit_bias"] = config.logit_bias_init_value
    return arguments


def rules(config: ClipVitConfig, is_siglip: bool) -> list[Rule]:
    """Which weights belong together."""
    text = "text." if is_siglip else ""
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
    if is_siglip:
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
