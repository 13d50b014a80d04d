"""CLIPs of Transformers and open_clip: same outputs, same gradients, nothing lost."""

import open_clip
import pytest
import torch

from modeling_clip_vit import ClipVitVisionConfig
from modeling_clip_vit.conversion import (
    ConversionError,
    from_hf_chinese_clip,
    from_hf_clip,
    from_hf_siglip,
    from_open_clip,
    to_hf_clip,
    to_hf_siglip,
    to_open_clip,
)
from modeling_clip_vit.conversion.open_clip.write import trunk_arguments
from modeling_clip_vit.conversion.verify import verify
from tests.support.models import make_images, small_model
from tests.support.peers import (
    NARROW,
    TEXT_TOWER,
    WIDE,
    assert_bit_equal,
    assert_same_gradient,
    assert_same_outputs,
    hf_chinese_clip,
    hf_clip,
    hf_siglip,
    make_ids,
    open_clip_model,
    open_clip_siglip,
    stir,
)

JOINT = {
    "hf_clip, small": (lambda: hf_clip(2, NARROW), from_hf_clip, to_hf_clip),
    "hf_clip, wide": (lambda: hf_clip(3, WIDE), from_hf_clip, to_hf_clip),
    "hf_siglip, small": (lambda: hf_siglip(2, NARROW), from_hf_siglip, to_hf_siglip),
    "hf_siglip, wide": (lambda: hf_siglip(3, WIDE), from_hf_siglip, to_hf_siglip),
    "hf_chinese_clip, small": (lambda: hf_chinese_clip(2, NARROW), from_hf_chinese_clip, None),
    "hf_chinese_clip, wide": (lambda: hf_chinese_clip(3, WIDE), from_hf_chinese_clip, None),
    "open_clip, small": (lambda: open_clip_model(2, NARROW), from_open_clip, to_open_clip),
    "open_clip, wide": (lambda: open_clip_model(3, WIDE, True), from_open_clip, to_open_clip),
    "open_clip, siglip": (
        lambda: open_clip_siglip("vit_narrow_patch8_siglip_32", 32),
        from_open_clip,
        to_open_clip,
    ),
    "open_clip, siglip 2": (
        lambda: open_clip_siglip("vit_wide_patch8_siglip_32", 48, is_second=True),
        from_open_clip,
        to_open_clip,
    ),
}


def weight_of(model, *ends: str) -> torch.nn.Parameter:
    return next(weight for name, weight in model.named_parameters() if name.endswith(ends))


@pytest.mark.parametrize("name", JOINT)
def test_a_joint_model_computes_the_same_with_the_same_gradients(name):
    make, from_peer, _ = JOINT[name]
    torch.manual_seed(0)
    peer = stir(make())
    ours = from_peer(peer)
    images, ids = make_images(3, ours.config.vision_config.image_size), make_ids(300)
    for logits in assert_same_outputs(ours, peer, images, ids):
        logits.log_softmax(dim=1).diagonal().sum().backward()
    tokens = ("token_embedding.weight", "word_embeddings.weight")
    patches = ("patch_embedding.weight", "conv1.weight", "patch_embed.proj.weight")
    assert_same_gradient(weight_of(ours, *tokens), weight_of(peer, *tokens))
    assert_same_gradient(weight_of(ours, "projection.weight"), weight_of(peer, *patches))


@pytest.mark.parametrize("name", [name for name, (*_, to_peer) in JOINT.items() if to_peer])
def test_a_joint_model_goes_there_and_back_bit_equal(name):
    make, from_peer, to_peer = JOINT[name]
    torch.manual_seed(0)
    peer = stir(make())
    ours = from_peer(peer)
    there = to_peer(ours)
    assert_bit_equal(there, peer)
    assert_bit_equal(from_peer(there), ours)


@pytest.mark.parametrize("has_segments", [False, True], ids=["padded", "padded, segments"])
@pytest.mark.parametrize("sizes", [NARROW, WIDE])
def test_texts_of_chinese_clip_embed_the_same(sizes, has_segments):
    torch.manual_seed(0)
    peer = stir(hf_chinese_clip(2, sizes))
    ids = make_ids(300)
    text = {"attention_mask": torch.ones_like(ids)}
    text["attention_mask"][0, 5:] = 0
    text["attention_mask"][2, 9:] = 0
    if has_segments:
        text["token_type_ids"] = (torch.arange(12) > 6).long().expand(3, -1)
    assert_same_outputs(from_hf_chinese_clip(peer), peer, make_images(3), ids, **text)


def test_the_tokens_of_padding_do_not_change_a_text_of_chinese_clip():
    ours = from_hf_chinese_clip(stir(hf_chinese_clip(2, NARROW)))
    ids = make_ids(300)
    mask = (torch.arange(12) < 5).long().expand(3, -1)
    other = torch.where(mask.bool(), ids, 7)
    embeds, expected = (
        ours.get_text_features(tokens, attention_mask=mask).pooler_output for tokens in (other, ids)
    )
    torch.testing.assert_close(embeds, expected)


@pytest.mark.parametrize("sizes", [NARROW, WIDE])
def test_custom_clips_of_open_clip_with_its_own_image_tower_are_read(sizes):
    vision = {"layers": 2, "width": 32, "head_width": 16, "patch_size": 8, "image_size": 32}
    peer = stir(open_clip.CustomTextCLIP(sizes["hidden_size"], vision, TEXT_TOWER))
    images, ids = make_images(2), make_ids(300)[:2]
    assert_same_outputs(from_open_clip(peer), peer, images, ids)


def test_old_end_tokens_of_transformers_are_the_largest_id():
    peer = hf_clip(1, NARROW)
    peer.config.text_config.eos_token_id = 2
    peer.text_model.eos_token_id = 2
    ours = from_hf_clip(peer.eval())
    assert ours.config.text_config.eos_token_id == 299
    assert_same_outputs(ours, peer, make_images(3), make_ids(300))


def test_a_weight_without_a_place_is_an_error_that_names_it():
    peer = hf_clip(2, NARROW)
    peer.text_model.extra = torch.nn.Linear(3, 3)
    with pytest.raises(ConversionError, match=r"without a place: text_model\.extra\.bias"):
        from_hf_clip(peer)


def siglip_with_relu():
    peer = hf_siglip(1, NARROW)
    peer.config.text_config.hidden_act = "relu"
    return from_hf_siglip(peer)


#: What the error names -> the target, and a model of ours that it cannot hold.
UNWRITABLE = {
    "CLIP cannot hold .*norm_type='rmsnorm'": (
        to_hf_clip,
        lambda: small_model(vision={"norm_type": "rmsnorm"}),
    ),
    "CLIP cannot hold attention_type='sigmoid'": (
        to_hf_clip,
        lambda: small_model(vision={"attention_type": "sigmoid"}),
    ),
    "CLIP cannot hold attention_gate='headwise'": (
        to_hf_clip,
        lambda: small_model(vision={"attention_gate": "headwise"}),
    ),
    "open_clip cannot hold .*value_residual=True .*in the text tower": (
        to_open_clip,
        lambda: small_model({"patch_bias": False}, {"value_residual": True}),
    ),
    "SigLIP cannot hold .*pooling='cls'": (to_hf_siglip, small_model),
    "CLIP cannot hold .*'bert'": (
        to_hf_clip,
        lambda: from_hf_chinese_clip(hf_chinese_clip(1, NARROW)),
    ),
    "timm has no SigLIP .*hidden_size=96": (
        to_open_clip,
        lambda: from_hf_siglip(hf_siglip(1, WIDE)),
    ),
    "hidden_act='relu' in the text tower": (to_open_clip, siglip_with_relu),
}


@pytest.mark.parametrize("sentence", UNWRITABLE)
def test_what_a_peer_cannot_hold_is_rejected_with_its_fields(sentence):
    to_peer, make = UNWRITABLE[sentence]
    with pytest.raises(ConversionError, match=sentence):
        to_peer(make())


def test_a_published_siglip_has_its_name_in_timm():
    sizes = {"hidden_size": 768, "intermediate_size": 3072, "layer_norm_eps": 1e-6}
    config = ClipVitVisionConfig(**sizes, image_size=224, patch_size=16, pooling="map")
    assert trunk_arguments(config)["timm_model_name"] == "vit_base_patch16_siglip_224"


@pytest.fixture
def converted() -> tuple:
    """A CLIP of Transformers and ours of it, for texts of twelve tokens."""
    torch.manual_seed(0)
    peer = stir(hf_clip(2, NARROW))
    ours = from_hf_clip(peer)
    ours.config.text_config.max_position_embeddings = 12
    return peer, ours


def test_a_model_that_computes_the_same_is_verified(converted):
    peer, ours = converted
    assert max(verify(peer, ours, ours.config).values()) <= 1e-5


def test_a_model_that_computes_something_else_is_found_out(converted):
    peer, ours = converted
    with torch.no_grad():
        ours.vision_model.encoder.layers[1].norm2.bias[3] += 0.05
    with pytest.raises(ConversionError, match="differs in image_embeds by"):
        verify(peer, ours, ours.config)


def test_checking_leaves_weights_in_half_precision_as_they_are():
    peer = stir(hf_clip(1, NARROW)).half()
    ours = from_hf_clip(peer)
    before = {name: weight.clone() for name, weight in ours.state_dict().items()}
    verify(peer, ours, ours.config)
    assert ours.dtype == peer.dtype == torch.float16
    assert all(torch.equal(weight, before[name]) for name, weight in ours.state_dict().items())
