"""Equality with implementations that others wrote, on the same weights."""

import pytest
import timm
import torch
from conftest import make_images, make_texts, small_config, small_model
from torch.testing import assert_close
from transformers import CLIPTextConfig, CLIPTextModelWithProjection, SiglipConfig, SiglipModel
from transformers.models.clip.modeling_clip import image_text_contrastive_loss

from modeling_clip_vit import ClipVitModel, ClipVitVisionConfig, ClipVitVisionModel


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


def test_the_image_tower_equals_timm():
    torch.manual_seed(0)
    config = ClipVitVisionConfig(
        hidden_size=32,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        image_size=32,
        patch_size=8,
        layer_norm_eps=1e-6,
    )
    model = ClipVitVisionModel(config).eval()
    peer = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=4, num_classes=0
    ).eval()
    ours = model.state_dict()
    state = {
        "cls_token": ours["embeddings.cls_token"][None, None],
        "pos_embed": ours["embeddings.position_embedding.weight"][None],
    }
    for kind in ("weight", "bias"):
        state[f"patch_embed.proj.{kind}"] = ours[f"embeddings.patch_embedding.projection.{kind}"]
        state[f"norm.{kind}"] = ours[f"final_norm.{kind}"]
        for layer in range(3):
            for mine, theirs in {
                "attention.qkv_proj": "attn.qkv",
                "attention.out_proj": "attn.proj",
                "norm1": "norm1",
                "norm2": "norm2",
                "feed_forward.fc1": "mlp.fc1",
                "feed_forward.fc2": "mlp.fc2",
            }.items():
                key = f"encoder.layers.{layer}.{mine}.{kind}"
                state[f"blocks.{layer}.{theirs}.{kind}"] = ours[key]
    peer.load_state_dict(state)
    images = make_images(3)
    assert_close(model(images).pooler_output, peer(images), atol=1e-5, rtol=0)
    states = peer.forward_features(images)
    assert_close(model(images).last_hidden_state, states, atol=1e-5, rtol=0)


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
