"""timm's Vision Transformer."""

import copy
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import GluMlp, Mlp, PatchEmbed, RmsNorm, SwiGLUPacked
from timm.layers.attention import Attention
from timm.models import VisionTransformer, load_checkpoint, save_for_hf
from timm.models.vision_transformer import Block
from torch import nn

from ..configuration_clip_vit import ClipVitVisionConfig
from ..modeling_clip_vit import ClipVitModel, ClipVitVisionModel
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

#: timm's pooling -> ours.
POOLINGS = {"token": "cls", "avg": "mean", "map": "map"}
#: Our activation -> timm's name of it, and the class that it is there.
ACTIVATIONS = {
    "gelu": ("gelu", "GELU"),
    "gelu_pytorch_tanh": ("gelu_tanh", "GELUTanh"),
    "quick_gelu": ("quick_gelu", "QuickGELU"),
    "silu": ("silu", "SiLU"),
    "relu": ("relu", "ReLU"),
}
BLOCK = {
    "attention.qkv_proj": "attn.qkv",
    "attention.q_norm": "attn.q_norm",
    "attention.k_norm": "attn.k_norm",
    "attention.out_proj": "attn.proj",
    "norm1": "norm1",
    "norm2": "norm2",
    "feed_forward.fc1": "mlp.fc1",
    "feed_forward.fc2": "mlp.fc2",
}
#: What is fixed in most peers, and an option in timm.
OPTIONS = (
    "qk_norm",
    "mlp_type",
    "mlp_bias",
    "norm_type",
    "layer_scale_init_value",
    "position_embedding_type",
    "attention_q_bias",
    "attention_k_bias",
    "attention_v_bias",
    "attention_out_bias",
)
NORM_LAYERS = {"layernorm": nn.LayerNorm, "rmsnorm": RmsNorm}
#: Architectures of timm whose other arguments can all be written into a config.json, by the two
#: that cannot: the kind of feed-forward module, and the epsilon of the norms.
ARCHITECTURES = {
    ("mlp", 1e-6): "vit_base_patch16_224",
    ("mlp", 1e-5): "vit_base_patch16_clip_224",
    ("glu", 1e-6): "vit_giant_patch14_dinov2",
}


def from_timm_vit(
    source: VisionTransformer | Checkpoint, hidden_act: str | None = None
) -> ClipVitVisionModel:
    """A ViT of timm, its classifier left out, as an image tower of ours.

    Args:
        source: a plain `VisionTransformer`, or a checkpoint of one: a folder with its config.json,
            a file of weights in such a folder, or a name on the Hub.
        hidden_act: the activation, if it is not one that is recognised.

    Raises:
        ConversionError: it has something that ours has not.
    """
    peer: Any = load(source) if isinstance(source, str | Path) else source
    config = config_of(peer, hidden_act)
    model = ClipVitVisionModel(config)
    headless = peer if isinstance(peer.head, nn.Identity) else without_head(peer)
    changed = positions_of(peer)
    move_weights(headless, model, rules(config), to_ours=True, changed=changed)
    return model.to(next(peer.parameters()).dtype).eval()


def load(source: Checkpoint) -> Any:
    """The model of a checkpoint in the form in which timm shares its models on the Hub.

    Raises:
        ConversionError: timm cannot build or fill it, or a pickle holds more than tensors.
    """
    path, place = Path(source), folder_of(source)
    scheme = "local-dir" if Path(place).is_dir() else "hf-hub"
    try:
        with tensors_only(source):
            peer = timm.create_model(f"{scheme}:{place}", pretrained=not path.is_file())
            if path.is_file():
                load_checkpoint(peer, str(path), weights_only=True)
    # timm's errors have no class of their own.
    except RuntimeError as error:
        raise ConversionError(f"timm cannot load {str(source)!r}: {error}") from error
    return peer.eval()


def without_head(peer: VisionTransformer) -> VisionTransformer:
    """A copy that gives the pooled output."""
    peer = copy.deepcopy(peer)
    peer.head = nn.Identity()
    return peer


def positions_of(peer: Any) -> dict[str, torch.Tensor]:
    """The positions with one of zero for a class token that has none."""
    if peer.pos_embed is None or peer.cls_token is None or not peer.no_embed_class:
        return {}
    positions_LD = peer.pos_embed.detach()[0]
    return {"pos_embed": torch.cat((torch.zeros_like(positions_LD[:1]), positions_LD))}


def config_of(peer: Any, hidden_act: str | None = None) -> ClipVitVisionConfig:
    """The configuration that builds the same model.

    Raises:
        ConversionError: it has something that ours has not.
    """
    return ClipVitVisionConfig(**fields_of(peer, hidden_act))


def fields_of(peer: Any, hidden_act: str | None = None) -> dict[str, Any]:
    """The fields of that configuration which say how the model is built.

    Raises:
        ConversionError: it has something that ours has not.
    """
    check_kind(peer)
    block: Any = peer.blocks[0]
    embed: Any = peer.patch_embed
    attention = block.attn
    has_qkv_bias = attention.qkv.bias is not None
    return {
        "hidden_size": peer.embed_dim,
        "num_hidden_layers": len(peer.blocks),
        "num_attention_heads": attention.num_heads,
        "image_size": embed.img_size[0],
        "patch_size": embed.patch_size[0],
        "num_channels": embed.proj.in_channels,
        "hidden_act": hidden_act or activation_of(block.mlp.act),
        "norm_type": "rmsnorm" if is_rms(block.norm1) else "layernorm",
        "layer_norm_eps": block.norm1.eps,
        "qk_norm": not isinstance(attention.q_norm, nn.Identity),
        "attention_bias": has_qkv_bias,
        "attention_out_bias": attention.proj.bias is not None,
        "mlp_type": "glu" if isinstance(block.mlp, GluMlp) else "mlp",
        "mlp_bias": block.mlp.fc1.bias is not None,
        "intermediate_size": block.mlp.fc2.in_features,
        "patch_bias": embed.proj.bias is not None,
        "embedding_norm": not isinstance(peer.norm_pre, nn.Identity),
        "layer_scale_init_value": None if isinstance(block.ls1, nn.Identity) else 1.0,
        "position_embedding_type": "none" if peer.pos_embed is None else "learned",
        "use_cls_token": peer.cls_token is not None,
        "num_register_tokens": peer.num_reg_tokens,
        "pooling": POOLINGS[peer.global_pool],
        "pool_prefix_tokens": bool(peer.pool_include_prefix),
        "final_norm": final_norm_of(peer),
    }


def check_kind(peer: Any):
    """Reject a model that is not a ViT that ours can represent.

    Raises:
        ConversionError: it has something that ours has not.
    """
    if type(peer) is not VisionTransformer or peer.global_pool not in POOLINGS:
        raise ConversionError(
            f"a {type(peer).__name__} with global_pool={getattr(peer, 'global_pool', None)!r} is "
            f"not a plain ViT with one of {', '.join(POOLINGS)}"
        )
    if peer.num_reg_tokens and not peer.no_embed_class and peer.pos_embed is not None:
        raise ConversionError(
            "registers with positions (reg_tokens without no_embed_class) have no place: here they "
            "have none"
        )
    block: Any = peer.blocks[0]
    if type(block) is not Block:
        raise ConversionError(f"a ViT of timm with {type(block).__name__} is not converted")
    for part, kinds in {
        block.attn: (Attention,),
        block.mlp: (Mlp, GluMlp),
        peer.patch_embed: (PatchEmbed,),
    }.items():
        if type(part) not in kinds:
            raise ConversionError(f"a ViT of timm with {type(part).__name__} is not converted")
    if not isinstance(block.norm1, nn.LayerNorm) and not is_rms(block.norm1):
        raise ConversionError(f"norms of type {type(block.norm1).__name__} are not converted")
    if isinstance(block.mlp, GluMlp) and (block.mlp.gate_last or peer.global_pool == "map"):
        raise ConversionError(
            "a gated feed-forward module whose gate stands last, or beside pooling by attention, "
            "is not converted"
        )
    height, width = peer.patch_embed.img_size
    if height != width:
        raise ConversionError(f"images of {height} x {width} are not square")
    patch = peer.patch_embed.patch_size[0]
    if height % patch:
        raise ConversionError(f"images of {height} pixels are not whole patches of {patch}")


def is_rms(norm: nn.Module) -> bool:
    """Whether a norm is by the root of the mean square."""
    return isinstance(norm, RmsNorm | nn.RMSNorm)


def activation_of(layer: nn.Module) -> str:
    """Our name of an activation.

    Raises:
        ConversionError: it is not known.
    """
    if getattr(layer, "approximate", "none") == "tanh":
        return "gelu_pytorch_tanh"
    for name, (_, kind) in ACTIVATIONS.items():
        if type(layer).__name__ == kind:
            return name
    raise ConversionError(f"name the activation: {layer} is not known here")


def final_norm_of(peer: Any) -> str:
    """Where the last norm stands."""
    if not isinstance(peer.norm, nn.Identity):
        return "before_pooling"
    return "none" if isinstance(peer.fc_norm, nn.Identity) else "after_pooling"


def to_timm_vit(model: ClipVitVisionModel | ClipVitModel) -> VisionTransformer:
    """An image tower of ours, alone or of a joint model, as a ViT of timm without a classifier.

    A class token whose position is zero, or that comes with registers, has no position in timm;
    its position is added to the token instead.

    Raises:
        ConversionError: it is built in a way that timm's ViT is not.
    """
    tower: Any = model.vision_model if isinstance(model, ClipVitModel) else model
    config = tower.config
    check_config(config)
    prefix = tower.embeddings
    changed = {}
    has_free_class = config.num_register_tokens > 0
    if config.position_embedding_type == "learned" and config.use_cls_token:
        positions_LD = prefix.position_embedding.weight.detach()
        has_free_class = has_free_class or not positions_LD[0].any()
        if has_free_class:
            changed = {
                "embeddings.cls_token": prefix.cls_token.detach() + positions_LD[0],
                "embeddings.position_embedding.weight": positions_LD[1:],
            }
    peer: Any = build(config, has_free_class)
    move_weights(tower, peer, rules(config), to_ours=False, changed=changed)
    return peer.to(tower.dtype).eval()


def check_config(config):
    """Refuse a configuration that timm's ViT has no option for.

    Raises:
        ConversionError: the message names the fields.
    """
    require_classic(config, {"patch_embedding": "conv"}, "timm's ViT", OPTIONS)
    has_bias = config.attention_q_bias
    poolings = tuple(POOLINGS.values())
    is_map = config.pooling == "map"
    choices: Mapping[str, tuple] = {
        "pooling": poolings,
        "hidden_act": tuple(ACTIVATIONS),
        "norm_type": tuple(NORM_LAYERS),
        "position_embedding_type": ("learned", "none"),
        "attention_k_bias": (has_bias,),
        "attention_v_bias": (has_bias,),
        "mlp_type": ("mlp",) if is_map else ("mlp", "glu"),
        "mlp_bias": (True,) if is_map else (config.attention_out_bias,),
        "attention_out_bias": (config.mlp_bias,),
        "patch_bias": (not config.embedding_norm,),
        "adjust_glu_size": (False,),
    }
    for name, allowed in choices.items():
        if getattr(config, name) not in allowed:
            raise ConversionError(
                f"timm's ViT cannot hold {name}={getattr(config, name)!r} here: it must be "
                f"{' or '.join(map(repr, allowed))}"
            )


def build(config, has_free_class: bool) -> Any:
    """A ViT of timm with random weights and no classifier.

    Args:
        config: of our tower.
        has_free_class: whether the class token has no position.
    """
    key, eps = (config.mlp_type, config.layer_norm_eps), config.layer_norm_eps
    is_rms, is_glu = config.norm_type == "rmsnorm", config.mlp_type == "glu"
    options: dict[str, Any] = {}
    if key not in ARCHITECTURES or (is_rms and eps != 1e-6):
        options["norm_layer"] = partial(NORM_LAYERS[config.norm_type], eps=eps)
    elif is_rms:
        options["norm_layer"] = "rmsnorm"
    if is_glu and key not in ARCHITECTURES:
        options["mlp_layer"] = SwiGLUPacked
    name = ARCHITECTURES.get(key, ARCHITECTURES["mlp", 1e-6])
    scale = config.layer_scale_init_value
    return timm.create_model(
        name,
        img_size=config.image_size,
        patch_size=config.patch_size,
        in_chans=config.num_channels,
        num_classes=0,
        global_pool=next(key for key, value in POOLINGS.items() if value == config.pooling),
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=ratio((1 + is_glu) * config.intermediate_size, config.hidden_size),
        act_layer=ACTIVATIONS[config.hidden_act][0],
        qkv_bias=config.attention_q_bias,
        qk_norm=config.qk_norm,
        proj_bias=config.attention_out_bias,
        # timm takes 0 for no scales, and drops what is None.
        init_values=0.0 if scale is None else scale or 1.0,
        class_token=config.use_cls_token,
        reg_tokens=config.num_register_tokens,
        no_embed_class=has_free_class,
        pos_embed="learn" if config.position_embedding_type == "learned" else "none",
        pre_norm=config.embedding_norm,
        final_norm=config.final_norm != "none",
        fc_norm=config.final_norm == "after_pooling",
        pool_include_prefix=config.pool_prefix_tokens,
        **options,
    )


def save(peer: Any, folder: Path):
    """Write a model of `to_timm_vit` as timm loads it: `timm.create_model("local-dir:FOLDER")`.

    Raises:
        ConversionError: its norms are none that timm's config.json can name.
    """
    try:
        save_for_hf(peer, str(folder), safe_serialization=True)
    except ValueError as error:
        known = ", ".join(f"{eps} with mlp_type={kind!r}" for kind, eps in ARCHITECTURES)
        raise ConversionError(
            f"timm's config.json cannot say layer_norm_eps={peer.blocks[0].norm1.eps}: it can say "
            f"{known}, and 1e-06 with norm_type='rmsnorm'"
        ) from error


def rules(config: ClipVitVisionConfig, ours: str = "", theirs: str = "") -> list[Rule]:
    """Which weights belong together, under the prefixes `ours` and `theirs`."""
    layers = f"{ours}encoder.layers"
    norm = "fc_norm" if config.final_norm == "after_pooling" else "norm"
    scales = [
        rule
        for layer in range(config.num_hidden_layers)
        for number in (1, 2)
        for rule in same(
            f"{layers}.{layer}.scale{number}.gamma", f"{theirs}blocks.{layer}.ls{number}.gamma"
        )
    ]
    pooling = {
        "q_proj": "q",
        "kv_proj": "kv",
        "out_proj": "proj",
        "norm": "norm",
        "feed_forward.fc1": "mlp.fc1",
        "feed_forward.fc2": "mlp.fc2",
    }
    return [
        *same(f"{ours}embeddings.cls_token", f"{theirs}cls_token"),
        *same(f"{ours}embeddings.register_tokens", f"{theirs}reg_token"),
        *same(f"{ours}embeddings.position_embedding.weight", f"{theirs}pos_embed"),
        *module(f"{ours}embeddings.patch_embedding.projection", f"{theirs}patch_embed.proj"),
        *module(f"{ours}embeddings.norm", f"{theirs}norm_pre"),
        *module(f"{ours}final_norm", f"{theirs}{norm}"),
        *blocks(config.num_hidden_layers, layers, f"{theirs}blocks", BLOCK),
        *scales,
        *same(f"{ours}pooling.probe", f"{theirs}attn_pool.latent"),
        *(
            rule
            for mine, other in pooling.items()
            for rule in module(f"{ours}pooling.{mine}", f"{theirs}attn_pool.{other}")
        ),
    ]
