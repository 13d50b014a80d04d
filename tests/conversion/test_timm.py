"""Image towers to timm and back, in memory and as folders."""

import pytest
import timm
import torch
from timm.layers import RmsNorm, SwiGLU, SwiGLUPacked
from torch import nn

from modeling_clip_vit import ClipVitModel, ClipVitVisionConfig, ClipVitVisionModel
from modeling_clip_vit.cli import main
from modeling_clip_vit.conversion import (
    ConversionError,
    from_hf_chinese_clip,
    from_timm_vit,
    to_timm_vit,
)
from tests.support.models import make_images, small_model
from tests.support.peers import (
    NARROW,
    assert_bit_equal,
    assert_same_gradient,
    hf_chinese_clip,
    stir,
)

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
TIMM = [
    {},
    {"qk_norm": True, "init_values": 0.3, "qkv_bias": False},
    {"global_pool": "map", "class_token": False},
    {"global_pool": "avg"},
    {"global_pool": "avg", "fc_norm": False, "pool_include_prefix": True, "pre_norm": True},
    {"act_layer": "quick_gelu", "norm_layer": None, "embed_dim": 48, "depth": 3, "num_heads": 3},
    {"act_layer": "gelu_tanh", "embed_dim": 96, "num_heads": 3, "mlp_ratio": 160 / 96},
    {"reg_tokens": 3, "no_embed_class": True},
    {"reg_tokens": 4, "no_embed_class": True, "class_token": False, "global_pool": "avg"},
    {"no_embed_class": True},
    {"pos_embed": "none", "reg_tokens": 2},
    {"final_norm": False},
    {"proj_bias": False, "norm_layer": "rmsnorm", "qk_norm": True},
    {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 5, "init_values": 0.1},
    {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "embed_dim": 48, "reg_tokens": 0},
]


def make_peer(options: dict):
    torch.manual_seed(0)
    return stir(timm.models.VisionTransformer(**{**SIZES, "num_classes": 5, **options}))


def pooled(peer, images: torch.Tensor) -> torch.Tensor:
    return peer.forward_head(peer.forward_features(images), pre_logits=True)


def assert_close(given: torch.Tensor, expected: torch.Tensor):
    """The same to 1e-5 of the largest value."""
    assert (given - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("options", TIMM)
def test_an_image_tower_goes_to_timm_and_back(options):
    peer = make_peer(options)
    ours = from_timm_vit(peer)
    images = make_images(3)
    mine, theirs = ours(images).pooler_output, pooled(peer, images)
    assert_close(mine, theirs)
    for output in (mine, theirs):
        (output * torch.linspace(-1, 1, output.shape[1])).sum().backward()
    assert_same_gradient(
        ours.embeddings.patch_embedding.projection.weight, peer.patch_embed.proj.weight
    )
    assert_bit_equal(to_timm_vit(ours), peer, left_out="head.")
    assert_bit_equal(from_timm_vit(to_timm_vit(ours)), ours)


def with_registers(norm_type: str, mlp_type: str, eps: float) -> ClipVitModel:
    vision = {"layer_norm_eps": eps, "norm_type": norm_type, "mlp_type": mlp_type}
    return small_model(vision={**vision, "num_register_tokens": 2}, text={"pooling": "mean"})


#: Kinds of norm and feed-forward, and the small numbers in norms that a folder of timm can state.
STATED = {
    ("layernorm", "mlp"): (1e-6, 1e-5),
    ("layernorm", "glu"): (1e-6,),
    ("rmsnorm", "mlp"): (1e-6,),
    ("rmsnorm", "glu"): (1e-6,),
}
WRITABLE = [(*kind, eps) for kind, every in STATED.items() for eps in every]
UNWRITABLE = [
    (*kind, eps) for kind, every in STATED.items() for eps in (1e-6, 1e-5, 3e-4) if eps not in every
]


@pytest.mark.parametrize("kind", [*WRITABLE, *UNWRITABLE])
def test_a_norms_small_number_goes_to_timm_in_memory(kind):
    ours, images = with_registers(*kind), make_images(3)
    assert_close(pooled(to_timm_vit(ours), images), ours.vision_model(images).pooler_output)


@pytest.mark.parametrize("kind", UNWRITABLE)
def test_a_small_number_that_timms_folder_cannot_state_is_rejected(tmp_path, capsys, kind):
    with_registers(*kind).save_pretrained(tmp_path / "ours")
    there = str(tmp_path / "there")
    assert main(["convert", str(tmp_path / "ours"), there, "--to", "timm"]) == 1
    assert f"cannot say layer_norm_eps={kind[-1]}" in capsys.readouterr().err


@pytest.mark.parametrize("kind", WRITABLE)
def test_a_folder_goes_to_timm_and_back(tmp_path, capsys, kind):
    ours = with_registers(*kind)
    ours.save_pretrained(tmp_path / "ours")
    there, back = str(tmp_path / "there"), str(tmp_path / "back")
    assert main(["convert", str(tmp_path / "ours"), there, "--to", "timm"]) == 0
    peer = timm.create_model(f"local-dir:{there}", pretrained=True).eval()
    assert_close(pooled(peer, make_images(3)), ours.vision_model(make_images(3)).pooler_output)
    assert peer(make_images(3)).shape == (3, 32)
    assert main(["convert", there, back]) == 0
    again = ClipVitVisionModel.from_pretrained(back)
    assert_bit_equal(to_timm_vit(again), peer)
    assert_bit_equal(from_timm_vit(there), again)
    assert_bit_equal(from_timm_vit(f"{there}/model.safetensors"), again)
    assert "largest differences: pooler_output" in capsys.readouterr().out


@pytest.mark.parametrize("fields", [{}, {"hidden_size": 48, "num_hidden_layers": 3}])
def test_a_saved_image_tower_alone_goes_to_timm(tmp_path, fields):
    tower = stir(small_model(vision={"layer_norm_eps": 1e-6, **fields}).vision_model)
    tower.save_pretrained(tmp_path / "ours")
    there = str(tmp_path / "there")
    assert main(["convert", str(tmp_path / "ours"), there, "--to", "timm"]) == 0
    peer = timm.create_model(f"local-dir:{there}", pretrained=True).eval()
    assert_close(pooled(peer, make_images(3)), tower(make_images(3)).pooler_output)
    assert_bit_equal(from_timm_vit(there), tower)


def test_an_image_tower_alone_is_not_written_as_a_clip(tmp_path, capsys):
    small_model().vision_model.save_pretrained(tmp_path / "ours")
    target = str(tmp_path / "clip")
    assert main(["convert", str(tmp_path / "ours"), target, "--to", "hf_clip"]) == 1
    assert "image tower alone, and hf_clip has two towers" in capsys.readouterr().err


def test_the_image_tower_of_a_peer_goes_to_timm(tmp_path):
    peer = stir(hf_chinese_clip(2, NARROW))
    peer.save_pretrained(tmp_path / "peer")
    there = str(tmp_path / "there")
    assert main(["convert", str(tmp_path / "peer"), there, "--to", "timm"]) == 0
    again = timm.create_model(f"local-dir:{there}", pretrained=True).eval()
    assert_close(pooled(again, make_images(3)), peer.vision_model(make_images(3)).pooler_output)


def test_registers_keep_the_sum_of_a_class_token_and_its_position():
    config = {"num_register_tokens": 3, "layer_norm_eps": 1e-6}
    ours = stir(small_model(vision=config).vision_model)
    peer = to_timm_vit(ours)
    position = ours.embeddings.position_embedding.weight[0]
    assert torch.equal(peer.cls_token.flatten(), ours.embeddings.cls_token + position)
    assert_close(pooled(peer, make_images(3)), ours(make_images(3)).pooler_output)


REFUSED = {
    "registers with positions": {"reg_tokens": 2},
    "gate stands last": {"mlp_layer": timm.layers.GluMlp, "act_layer": nn.SiLU},
    "SwiGLU is not converted": {"mlp_layer": SwiGLU},
    "ResPostBlock is not converted": {"block_fn": timm.models.vision_transformer.ResPostBlock},
    "global_pool='max'": {"global_pool": "max"},
    "name the activation": {"act_layer": nn.Mish},
    "not square": {"img_size": (32, 64)},
    "attn.norm": {"scale_attn_norm": True},
    "norms of type": {"norm_layer": timm.layers.SimpleNorm},
}


@pytest.mark.parametrize("sentence", REFUSED)
def test_what_ours_cannot_hold_is_rejected(sentence):
    with pytest.raises(ConversionError, match=sentence):
        from_timm_vit(make_peer(REFUSED[sentence]))


@pytest.mark.parametrize(
    "fields",
    [
        {"position_embedding_type": "rope"},
        {"pooling": "flatten"},
        {"patch_bias": False},
        {"mlp_bias": False},
        {"attention_k_bias": False},
        {"hidden_act": "mish"},
        {"norm_type": "dyt"},
        {"pooling": "map", "mlp_type": "glu"},
        {"num_key_value_heads": 1},
        {"patch_embedding": "linear"},
        {"norm_placement": "post"},
        {"attention_gate": "elementwise"},
        {"value_residual": True},
    ],
)
def test_what_timm_cannot_hold_is_rejected_with_its_field(fields):
    config = ClipVitVisionConfig(
        hidden_size=32, num_attention_heads=2, num_hidden_layers=1, **fields
    )
    name, value = list(fields.items())[-1]
    with pytest.raises(ConversionError, match=f"timm's ViT cannot hold .*{name}={value!r}"):
        to_timm_vit(ClipVitVisionModel(config))


def test_a_tower_of_another_type_is_rejected():
    model = from_hf_chinese_clip(hf_chinese_clip(1, NARROW))
    model.vision_model = model.text_model
    with pytest.raises(ConversionError, match="timm's ViT cannot hold a tower of type 'bert'"):
        to_timm_vit(model)


def test_norms_of_timm_are_the_same_as_ours():
    peer = make_peer({"norm_layer": lambda size, **kwargs: RmsNorm(size, eps=1e-4, **kwargs)})
    assert from_timm_vit(peer).config.layer_norm_eps == 1e-4
