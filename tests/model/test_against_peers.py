"""Equality with implementations that others wrote, on the same weights."""

import pytest
import timm
import torch
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, SiglipConfig, SiglipModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss
from transformers.models.llama.modeling_llama import (
    LlamaConfig,
    LlamaRotaryEmbedding,
    apply_rotary_pos_emb,
)

from modeling_clip_vit import ClipVitModel, ClipVitVisionConfig, ClipVitVisionModel
from modeling_clip_vit.attention import rotate
from modeling_clip_vit.embeddings import ClipVitVisionEmbeddings, rotary_angles
from modeling_clip_vit.encoder import ClipVitEncoderLayer
from modeling_clip_vit.feed_forward import ClipVitGatedMLP, ClipVitMLP
from modeling_clip_vit.normalization import build_norm
from tests.support.models import make_images, make_texts, small_config, small_model


def split_qkv(state: dict[str, torch.Tensor], prefix: str, names: tuple[str, str, str]):
    """Queries, keys and values apart, as most implementations keep them."""
    result = {}
    for kind in ("weight", "bias"):
        parts = state[f"{prefix}.qkv_proj.{kind}"].chunk(3)
        result |= {f"{name}.{kind}": part for name, part in zip(names, parts, strict=True)}
    return result


def test_the_text_tower_equals_transformers_clip():
    model = small_model(text={"hidden_act": "quick_gelu"})
    config = model.config.text_config
    peer = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            max_position_embeddings=config.max_position_embeddings,
            projection_dim=config.projection_dim,
            hidden_act="quick_gelu",
            bos_token_id=1,
            eos_token_id=config.eos_token_id + 0,
        )
    ).eval()
    # Transformers treats an end token of id 2 as a sign of old checkpoints.
    peer.text_model.eos_token_id = 299
    texts = make_texts([5, 9, 3])
    texts["input_ids"][texts["input_ids"] == 299] = 298
    texts["input_ids"][texts["input_ids"] == 2] = 299
    model.text_model.config.eos_token_id = 299
    ours = model.text_model.state_dict()
    state = {
        "embeddings.token_embedding.weight": ours["embeddings.token_embedding.weight"],
        "embeddings.position_embedding.weight": ours["embeddings.position_embedding.weight"],
    }
    for kind in ("weight", "bias"):
        state[f"final_layer_norm.{kind}"] = ours[f"final_norm.{kind}"]
        for layer in range(config.num_hidden_layers):
            here, there = f"encoder.layers.{layer}", f"encoder.layers.{layer}"
            state |= {
                f"{there}.self_attn.{name}": value
                for name, value in split_qkv(
                    ours, f"{here}.attention", ("q_proj", "k_proj", "v_proj")
                ).items()
            }
            for mine, theirs in {
                "attention.out_proj": "self_attn.out_proj",
                "norm1": "layer_norm1",
                "norm2": "layer_norm2",
                "feed_forward.fc1": "mlp.fc1",
                "feed_forward.fc2": "mlp.fc2",
            }.items():
                state[f"{there}.{theirs}.{kind}"] = ours[f"{here}.{mine}.{kind}"]
    peer.text_model.load_state_dict(state)
    peer.text_projection.load_state_dict(model.text_projection.state_dict())
    ours_embeds = model.get_text_features(**texts).pooler_output
    assert_close(ours_embeds, peer(**texts).text_embeds, atol=1e-5, rtol=0)


def timm_state(model: ClipVitVisionModel) -> dict[str, torch.Tensor]:
    """The weights of an image tower under the names of timm's ViT."""
    ours, config = model.state_dict(), model.config
    positions = ours["embeddings.position_embedding.weight"]
    prefix = int(config.use_cls_token)
    # timm has positions for registers too.
    no_position = torch.zeros(config.num_register_tokens, config.hidden_size)
    state = {"pos_embed": torch.cat((positions[:prefix], no_position, positions[prefix:]))[None]}
    if config.use_cls_token:
        state["cls_token"] = ours["embeddings.cls_token"][None, None]
    if config.num_register_tokens:
        state["reg_token"] = ours["embeddings.register_tokens"][None]
    names = {
        "attention.qkv_proj": "attn.qkv",
        "attention.q_norm": "attn.q_norm",
        "attention.k_norm": "attn.k_norm",
        "attention.out_proj": "attn.proj",
        "norm1": "norm1",
        "norm2": "norm2",
        "scale1": "ls1",
        "scale2": "ls2",
        "feed_forward.fc1": "mlp.fc1",
        "feed_forward.fc2": "mlp.fc2",
    }
    tops = {
        "embeddings.patch_embedding.projection": "patch_embed.proj",
        "embeddings.norm": "norm_pre",
        "final_norm": "fc_norm" if config.final_norm == "after_pooling" else "norm",
        "pooling.q_proj": "attn_pool.q",
        "pooling.kv_proj": "attn_pool.kv",
        "pooling.out_proj": "attn_pool.proj",
        "pooling.norm": "attn_pool.norm",
        "pooling.feed_forward.fc1": "attn_pool.mlp.fc1",
        "pooling.feed_forward.fc2": "attn_pool.mlp.fc2",
    }
    for layer in range(config.num_hidden_layers):
        for mine, theirs in names.items():
            tops[f"encoder.layers.{layer}.{mine}"] = f"blocks.{layer}.{theirs}"
    for mine, theirs in tops.items():
        for kind in ("weight", "bias", "gamma"):
            if f"{mine}.{kind}" in ours:
                state[f"{theirs}.{kind}"] = ours[f"{mine}.{kind}"]
    if config.pooling == "map":
        state["attn_pool.latent"] = ours["pooling.probe"][None, None]
    return state


TIMM_VARIANTS = [
    ({}, {}),
    ({"qk_norm": True, "layer_scale_init_value": 0.3}, {"qk_norm": True, "init_values": 0.3}),
    (
        {"num_register_tokens": 2, "attention_bias": False, "attention_out_bias": True},
        {"reg_tokens": 2, "qkv_bias": False},
    ),
    ({"embedding_norm": True, "patch_bias": False}, {"pre_norm": True}),
    ({"pooling": "map", "use_cls_token": False}, {"global_pool": "map", "class_token": False}),
    (
        {"pooling": "mean", "use_cls_token": True, "final_norm": "after_pooling"},
        {"global_pool": "avg"},
    ),
    (
        {"pooling": "mean", "use_cls_token": True, "pool_prefix_tokens": True},
        {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True},
    ),
]


@pytest.mark.parametrize(("ours", "theirs"), TIMM_VARIANTS)
def test_the_image_tower_equals_timm(ours, theirs):
    torch.manual_seed(0)
    config = ClipVitVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
        **ours,
    )
    model = ClipVitVisionModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    peer = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=0, **theirs
    ).eval()
    peer.load_state_dict(timm_state(model))
    images = make_images(3)
    assert_close(model(images).pooler_output, peer(images), atol=1e-5, rtol=1e-5)
    states = peer.forward_features(images)
    assert_close(model(images).last_hidden_state, states, atol=1e-5, rtol=1e-5)


def test_rotary_positions_equal_transformers_llama():
    config = LlamaConfig(hidden_size=32, num_attention_heads=4, rope_theta=10000.0)
    query, key = torch.randn(2, 4, 9, 8), torch.randn(2, 2, 9, 8)
    places = torch.arange(9).expand(2, 9) + torch.tensor([[0], [5]])
    cos, sin = LlamaRotaryEmbedding(config)(query, places)
    expected_query, expected_key = apply_rotary_pos_emb(query, key, cos, sin)
    angles = rotary_angles(places.unsqueeze(-1), head_dim=8, theta=10000.0)
    rotation = angles.unsqueeze(1).cos(), angles.unsqueeze(1).sin()
    assert_close(rotate(query, rotation), expected_query)
    assert_close(rotate(key, rotation), expected_key)


def test_an_image_axis_turns_its_own_half_of_a_head():
    """Rows alone turn the first half of the angles, columns alone the second, at equal rates."""
    rows = rotary_angles(torch.tensor([[3.0, 0.0]]), head_dim=16, theta=100.0)
    columns = rotary_angles(torch.tensor([[0.0, 3.0]]), head_dim=16, theta=100.0)
    rates = 3.0 * 100.0 ** (-torch.arange(4) / 4)
    assert_close(rows[0], torch.cat((rates, torch.zeros(4))))
    assert_close(columns[0], torch.cat((torch.zeros(4), rates)))


def test_sine_cosine_positions_equal_the_formula_of_simple_vit():
    rows, columns = torch.meshgrid(torch.arange(3), torch.arange(5), indexing="ij")
    omega = 1.0 / 10000 ** (torch.arange(8) / 7)
    x, y = columns.flatten()[:, None] * omega, rows.flatten()[:, None] * omega
    expected = torch.cat((x.sin(), x.cos(), y.sin(), y.cos()), dim=1)
    config = ClipVitVisionConfig(
        hidden_size=32,
        num_attention_heads=4,
        image_size=8,
        patch_size=8,
        position_embedding_type="sincos",
    )
    embeddings = ClipVitVisionEmbeddings(config)
    places = torch.stack((rows, columns), dim=-1).reshape(1, 15, 2).float()
    added = embeddings._add_positions(torch.zeros(1, 15, 32), places, torch.ones(1, 1, 2), False)
    assert_close(added[0], expected)


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_block_equals_torch(norm_first):
    """Pre-norm and post-norm blocks are those of torch.nn.TransformerEncoderLayer."""
    torch.manual_seed(0)
    config = small_config(
        vision={"norm_placement": "pre" if norm_first else "post", "hidden_act": "relu"}
    ).vision_config
    config._attn_implementation = "eager"
    ours = ClipVitEncoderLayer(config, 0.0).eval()
    theirs = torch.nn.TransformerEncoderLayer(
        32, 4, 64, dropout=0.0, batch_first=True, norm_first=norm_first
    ).eval()
    names = {
        "attention.qkv_proj.weight": "self_attn.in_proj_weight",
        "attention.qkv_proj.bias": "self_attn.in_proj_bias",
        "attention.out_proj.weight": "self_attn.out_proj.weight",
        "attention.out_proj.bias": "self_attn.out_proj.bias",
    }
    for mine, other in {
        "norm1": "norm1",
        "norm2": "norm2",
        "feed_forward.fc1": "linear1",
        "feed_forward.fc2": "linear2",
    }.items():
        names |= {f"{mine}.{kind}": f"{other}.{kind}" for kind in ("weight", "bias")}
    state = theirs.state_dict()
    ours.load_state_dict({mine: state[other] for mine, other in names.items()})
    hidden = torch.randn(2, 7, 32)
    assert_close(ours(hidden)[0], theirs(hidden), atol=1e-5, rtol=1e-5)


def test_group_norm_and_dynamic_tanh_equal_their_formulas():
    hidden = torch.randn(2, 5, 32) * 3 + 1
    norm = build_norm(
        small_config(vision={"norm_type": "groupnorm", "num_norm_groups": 4}).vision_config
    )
    groups = hidden.unflatten(-1, (4, 8))
    centred = groups - groups.mean(dim=-1, keepdim=True)
    expected = centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
    assert_close(norm(hidden), expected.flatten(-2))
    tanh = build_norm(small_config(vision={"norm_type": "dyt"}).vision_config)
    assert_close(tanh(hidden), (0.5 * hidden).tanh())


@pytest.mark.parametrize("adjusted", [True, False])
def test_an_adjusted_gated_module_has_as_many_parameters_as_an_ungated_one(adjusted):
    sizes = {"hidden_size": 48, "intermediate_size": 192, "mlp_bias": False}
    plain = ClipVitMLP(ClipVitVisionConfig(**sizes))
    gated = ClipVitGatedMLP(ClipVitVisionConfig(**sizes, adjust_glu_size=adjusted))
    count = [sum(p.numel() for p in module.parameters()) for module in (plain, gated)]
    assert count[1] == (count[0] if adjusted else 1.5 * count[0])


def test_the_losses_of_the_model_equal_transformers():
    inputs = {"pixel_values": make_images(4), **make_texts([4, 7, 6, 5])}
    outputs = small_model()(**inputs, return_loss=True)
    assert_close(outputs.loss, image_text_contrastive_loss(outputs.logits_per_text))

    model = ClipVitModel(small_config(logit_bias_init_value=-2.0)).eval()
    outputs = model(**inputs, return_loss=True)
    siglip = SiglipModel(
        SiglipConfig(
            text_config={"hidden_size": 8, "num_hidden_layers": 0, "num_attention_heads": 1},
            vision_config={"hidden_size": 8, "num_hidden_layers": 0, "num_attention_heads": 1},
        )
    )
    logits = outputs.logits_per_text
    eye = torch.eye(4)
    expected = -torch.nn.functional.logsigmoid((2 * eye - 1) * logits).sum(dim=-1).mean()
    assert siglip.logit_bias.shape == (1,)
    assert_close(outputs.loss, expected)
    cosine = outputs.text_embeds @ outputs.image_embeds.t()
    assert_close(logits, cosine * model.get_logit_scale() - 2.0)


@pytest.mark.parametrize("eager", [True, False])
def test_grouped_heads_equal_full_heads_with_repeated_keys(eager):
    grouped = small_model(vision={"num_key_value_heads": 2})
    full = small_model()
    state = grouped.state_dict()
    for key in list(state):
        if "vision_model" in key and "qkv_proj" in key:
            query, keys, values = state[key].split((32, 16, 16))
            repeated = [
                part.unflatten(0, (2, 8)).repeat_interleave(2, dim=0).flatten(0, 1)
                for part in (keys, values)
            ]
            state[key] = torch.cat((query, *repeated))
    full.load_state_dict(state)
    for model in (grouped, full):
        model.set_attn_implementation("eager" if eager else "sdpa")
    images = make_images(3)
    expected = full.get_image_features(images).pooler_output
    assert_close(grouped.get_image_features(images).pooler_output, expected, atol=1e-5, rtol=0)
