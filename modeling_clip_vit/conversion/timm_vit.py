"""timm's Vision Transformer."""

import copy
from functools import partial
from typing import Any

from timm.models import VisionTransformer
from torch import nn

from ..configuration_clip_vit import ClipVitVisionConfig
from ..modeling_clip_vit import ClipVitVisionModel
from .weights import (
    ConversionError,
    Rule,
    blocks,
    module,
    move_weights,
    require,
    same,
)

#: timm's pooling -> ours.
POOLINGS = {"token": "cls", "avg": "mean", "map": "map"}
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
#: What timm's ViT has no option for, as far as this conversion goes.
EXPECTED = {
    "patch_embedding": "conv",
    "mlp_type": "mlp",
    "mlp_bias": True,
    "norm_type": "layernorm",
    "norm_placement": "pre",
    "position_embedding_type": "learned",
    "hidden_act": "gelu",
    "num_register_tokens": 0,
}


def from_timm_vit(peer: Any, hidden_act: str | None = None) -> ClipVitVisionModel:
    """A ViT of timm, its classifier left out, as an image tower of ours.

    Args:
        peer: a plain `VisionTransformer` without registers.
        hidden_act: the activation, where it is none that this recognises.

    Raises:
        ConversionError: it has something that ours has not.
    """
    config = config_of(peer, hidden_act)
    model = ClipVitVisionModel(config)
    headless = peer if isinstance(peer.head, nn.Identity) else without_head(peer)
    move_weights(headless, model, rules(config), to_ours=True)
    return model.eval()


def without_head(peer: VisionTransformer) -> VisionTransformer:
    """A copy that gives the pooled output."""

    peer = copy.deepcopy(peer)
    peer.head = nn.Identity()
    return peer


def config_of(peer: Any, hidden_act: str | None = None) -> ClipVitVisionConfig:
    """The configuration that builds the same model.

    Raises:
        ConversionError: it has something that ours has not.
    """
    if type(peer) is not VisionTransformer or peer.global_pool not in POOLINGS:
        raise ConversionError(
            f"a {type(peer).__name__} with global_pool={getattr(peer, 'global_pool', None)!r} is "
            f"not a plain ViT with one of {', '.join(POOLINGS)}"
        )
    if peer.num_reg_tokens or peer.no_embed_class:
        raise ConversionError("timm's registers and class tokens without a position have no place")
    block: Any = peer.blocks[0]
    acts = {"GELU": "gelu", "GELUTanh": "gelu_pytorch_tanh", "QuickGELU": "quick_gelu"}
    act = hidden_act or acts.get(type(block.mlp.act).__name__)
    if act == "gelu" and getattr(block.mlp.act, "approximate", "none") == "tanh":
        act = "gelu_pytorch_tanh"
    if act is None:
        raise ConversionError(f"name the activation: {block.mlp.act} is not known here")
    scale = getattr(block.ls1, "gamma", None)
    after = isinstance(peer.norm, nn.Identity)
    return ClipVitVisionConfig(
        hidden_size=peer.embed_dim,
        intermediate_size=block.mlp.fc1.out_features,
        num_hidden_layers=len(peer.blocks),
        num_attention_heads=block.attn.num_heads,
        image_size=peer.patch_embed.img_size[0],
        patch_size=peer.patch_embed.patch_size[0],
        num_channels=peer.patch_embed.proj.in_channels,
        hidden_act=act,
        layer_norm_eps=block.norm1.eps,
        qk_norm=not isinstance(block.attn.q_norm, nn.Identity),
        attention_bias=block.attn.qkv.bias is not None,
        attention_out_bias=block.attn.proj.bias is not None,
        patch_bias=peer.patch_embed.proj.bias is not None,
        embedding_norm=not isinstance(peer.norm_pre, nn.Identity),
        layer_scale_init_value=None if scale is None else 1.0,
        use_cls_token=peer.cls_token is not None,
        pooling=POOLINGS[peer.global_pool],
        pool_prefix_tokens=bool(peer.pool_include_prefix),
        final_norm="after_pooling" if after else "before_pooling",
    )


def to_timm_vit(model: ClipVitVisionModel) -> VisionTransformer:
    """An image tower of ours as a ViT of timm without a classifier.

    Raises:
        ConversionError: it is built in a way that timm's ViT is not.
    """
    config: Any = model.config
    require(
        config,
        {
            **EXPECTED,
            "num_key_value_heads": config.num_attention_heads,
            "head_dim": config.hidden_size // config.num_attention_heads,
        },
        "timm's ViT",
    )
    names: dict[str, Any] = {ours: theirs for theirs, ours in POOLINGS.items()}
    if config.pooling not in names or config.final_norm == "none":
        raise ConversionError(
            f"timm's ViT cannot hold pooling={config.pooling!r} with final_norm="
            f"{config.final_norm!r}"
        )

    peer: Any = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        in_chans=config.num_channels,
        num_classes=0,
        global_pool=names[config.pooling],
        embed_dim=config.hidden_size,
        depth=config.num_hidden_layers,
        num_heads=config.num_attention_heads,
        mlp_ratio=config.intermediate_size / config.hidden_size,
        qkv_bias=config.attention_q_bias,
        qk_norm=config.qk_norm,
        proj_bias=config.attention_out_bias,
        init_values=config.layer_scale_init_value,
        class_token=config.use_cls_token,
        pre_norm=config.embedding_norm,
        fc_norm=config.final_norm == "after_pooling",
        pool_include_prefix=config.pool_prefix_tokens,
        norm_layer=partial(nn.LayerNorm, eps=config.layer_norm_eps),
    )
    move_weights(model, peer, rules(config), to_ours=False)
    return peer.eval()


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
