"""The families of open_clip's models: same embeddings, and back where open_clip can hold them."""

import open_clip
import pytest
import torch
from torch.testing import assert_close
from transformers import BertConfig, M2M100Config, MT5Config, XLMRobertaConfig

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.conversion import ConversionError, from_open_clip, to_open_clip
from modeling_clip_vit.conversion.verify import verify
from tests.support.models import make_images
from tests.support.peers import TEXT_TOWER, VISION, make_ids, stir

PLAIN_VIT = {"layers": 2, "width": 32, "head_width": 16, **VISION}
CLIPA = {"no_ln_pre": True, "final_ln_after_pool": True, "pool_type": "avg"}
CLIPA_TEXT = {**TEXT_TOWER, "pool_type": "last", "no_causal_mask": True}
WITHOUT_PROJECTION = {**TEXT_TOWER, "pool_type": "last", "proj_type": "none"}


def trunk(name: str, pool: str, proj: str | None, size: int = 32) -> dict:
    return {
        "timm_model_name": name,
        "timm_pool": pool,
        "timm_proj": proj,
        "image_size": size,
    }


#: Family -> arguments of its model, and the type of our image tower.
FAMILIES = {
    "layer scale": (PLAIN_VIT | {"ls_init_value": 0.1}, TEXT_TOWER, "clip_vit_vision_model"),
    "CLIPA": (PLAIN_VIT | CLIPA, CLIPA_TEXT, "clip_vit_vision_model"),
    "MetaCLIP 2": (
        PLAIN_VIT,
        {**TEXT_TOWER, "pool_type": "eos", "eos_id": 2},
        "clip_vit_vision_model",
    ),
    "text without projection": (
        trunk("vit_narrow_patch8_siglip_32", "map", "none"),
        WITHOUT_PROJECTION,
        "clip_vit_vision_model",
    ),
    "adapter after a ViT": (
        trunk("vit_narrow_patch8_siglip_32", "map", "linear"),
        TEXT_TOWER,
        "clip_vit_vision_model",
    ),
    "EVA-02": (trunk("narrow_eva", "token", None), TEXT_TOWER, "timm_wrapper"),
    "ConvNeXt": (trunk("narrow_convnext", "", "linear", 64), TEXT_TOWER, "timm_wrapper"),
    "ConvNeXt, mlp": (trunk("narrow_convnext", "", "mlp", 64), TEXT_TOWER, "timm_wrapper"),
    "MobileCLIP": (trunk("narrow_fastvit", "avg", None, 64), TEXT_TOWER, "timm_wrapper"),
    "ResNet": (
        {"layers": [1, 1, 1, 1], "width": 16, "head_width": 64, "image_size": 64},
        TEXT_TOWER,
        "timm_wrapper",
    ),
}


def build(name: str):
    vision, text, _ = FAMILIES[name]
    torch.manual_seed(0)
    return stir(open_clip.CustomTextCLIP(32, vision, text))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_embeds_the_same(name):
    peer = build(name)
    ours = from_open_clip(peer)
    vision = ours.config.vision_config
    assert vision.model_type == FAMILIES[name][2]
    images, ids = make_images(3, vision.image_size), make_ids(300)
    if name == "MetaCLIP 2":
        ids[:, -3] = 2
    outputs = ours(pixel_values=images, input_ids=ids)
    assert_close(outputs.image_embeds, peer.encode_image(images, True), atol=1e-5, rtol=0)
    assert_close(outputs.text_embeds, peer.encode_text(ids, True), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_goes_back_to_open_clip(name):
    ours = from_open_clip(build(name))
    assert max(verify(ours, to_open_clip(ours), ours.config).values()) <= 1e-5


@pytest.mark.parametrize("name", ["ConvNeXt, mlp", "EVA-02", "MobileCLIP", "ResNet"])
def test_a_model_of_timm_is_the_same_after_saving(tmp_path, name):
    ours = from_open_clip(build(name))
    ours.save_pretrained(tmp_path)
    loaded = ClipVitModel.from_pretrained(tmp_path)
    assert max(verify(ours, loaded, ours.config).values()) <= 1e-6


SIZES = {"vocab_size": 300, "pad_token_id": 1}
BERT = {
    **SIZES,
    "hidden_size": 24,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 40,
}
M2M = {"d_model": 24, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
M2M |= {f"{part}_layers": 2 for part in ("encoder", "decoder")}
M2M |= {f"{part}_attention_heads": 2 for part in ("encoder", "decoder")}

#: Encoder of Transformers -> its configuration, open_clip's pooling and projection.
ENCODERS = {
    "xlm-roberta": (XLMRobertaConfig(**BERT), "mean_pooler", "mlp"),
    "bert with its pooler": (BertConfig(**BERT), "cls_pooler", "linear"),
    "mt5": (
        MT5Config(**SIZES, d_model=24, d_kv=12, d_ff=32, num_layers=2, num_heads=2),
        "mean_pooler",
        "mlp",
    ),
    "nllb": (M2M100Config(**SIZES, **M2M), "cls_pooler", "linear"),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_of_transformers_embeds_the_same_with_padding_and_goes_back(tmp_path, name):
    config, pooler, projection = ENCODERS[name]
    config.save_pretrained(tmp_path / "encoder")
    text = {
        "hf_model_name": str(tmp_path / "encoder"),
        "hf_model_pretrained": False,
        "hf_pooler_type": pooler,
        "hf_proj_type": projection,
    }
    torch.manual_seed(0)
    peer = stir(open_clip.CustomTextCLIP(32, PLAIN_VIT, text))
    ours = from_open_clip(peer)
    ours.save_pretrained(tmp_path / "ours")
    loaded = ClipVitModel.from_pretrained(tmp_path / "ours").eval()
    ids = make_ids(300)
    ids[0, 5:] = 1
    mask = (ids != 1).long()
    expected = peer.encode_text(ids)
    assert torch.equal(to_open_clip(loaded).encode_text(ids), expected)
    for model in (ours, loaded):
        embeds = model.get_text_features(ids, attention_mask=mask).pooler_output
        assert_close(embeds, expected, atol=1e-5, rtol=1e-4)


def with_a_foreign_text_tower():
    peer = open_clip.CustomTextCLIP(24, PLAIN_VIT, TEXT_TOWER)
    peer.text = torch.nn.Linear(3, 3)
    return peer


def custom(vision: dict, text: dict):
    return lambda: open_clip.CustomTextCLIP(24, vision, text)


#: What the error names -> a model of open_clip that is not converted.
UNREADABLE = {
    "CoCa of open_clip has more than two towers": lambda: open_clip.CoCa(
        24, TEXT_TOWER, TEXT_TOWER, PLAIN_VIT
    ),
    "class token": custom(PLAIN_VIT, {**TEXT_TOWER, "embed_cls": True}),
    "text tower Linear is not open_clip's own": with_a_foreign_text_tower,
    r"no CLIP ResNet of \[1, 1, 1, 1\] blocks, width 32": custom(
        {"layers": [1, 1, 1, 1], "width": 32, "image_size": 32}, TEXT_TOWER
    ),
    "RotAttentionPool2d": custom(trunk("narrow_convnext", "rot_attn", ""), TEXT_TOWER),
    "blocks of type CustomResidualAttentionBlock": custom(
        PLAIN_VIT | {"scale_heads": True}, TEXT_TOWER
    ),
}


@pytest.mark.parametrize("sentence", UNREADABLE)
def test_a_model_of_open_clip_with_other_parts_is_rejected(sentence):
    with pytest.raises(ConversionError, match=sentence):
        from_open_clip(UNREADABLE[sentence]())
