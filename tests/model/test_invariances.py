"""Properties that a right model has, whatever its weights."""

import pytest
import torch
from conftest import make_images, make_texts, small_config, small_model
from torch.testing import assert_close

from modeling_clip_vit import ClipVitModel

VISION_VARIANTS = [
    {},
    {"pooling": "mean"},
    {"pooling": "flatten", "use_cls_token": True},
    {"patch_embedding": "linear", "pooling": "mean"},
    {"patch_embedding": "conv_stem"},
    {"norm_type": "rmsnorm", "mlp_type": "glu", "hidden_act": "silu", "attention_bias": False},
    {"num_key_value_heads": 1, "head_dim": 16},
]
TEXT_VARIANTS = [
    {"pooling": pooling, "is_causal": is_causal}
    for pooling in ("eos", "mean", "cls")
    for is_causal in (True, False)
]


@pytest.mark.parametrize("text", TEXT_VARIANTS)
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_padding_on_either_side_never_changes_a_text(text, attention):
    model = small_model(text=text)
    model.set_attn_implementation(attention)
    lengths = [5, 9, 3]
    texts = make_texts(lengths)
    padded = model.get_text_features(**texts).pooler_output
    longer = model.get_text_features(**make_texts(lengths, length=15)).pooler_output
    assert_close(longer, padded, atol=1e-5, rtol=0)
    for row, length in enumerate(lengths):
        ids = texts["input_ids"][row : row + 1, :length]
        alone = model.get_text_features(ids, attention_mask=torch.ones_like(ids)).pooler_output
        unmasked = model.get_text_features(ids).pooler_output
        left = torch.nn.functional.pad(ids, (4, 0))
        mask = torch.nn.functional.pad(torch.ones_like(ids), (4, 0))
        left_padded = model.get_text_features(left, attention_mask=mask).pooler_output
        assert_close(alone[0], padded[row], atol=1e-5, rtol=0)
        assert_close(unmasked, alone, atol=1e-5, rtol=0)
        assert_close(left_padded, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("vision", VISION_VARIANTS)
def test_the_batch_around_an_image_does_not_matter(vision):
    model = small_model(vision=vision)
    images = make_images(5)
    order = torch.tensor([3, 0, 4, 1, 2])
    together = model.get_image_features(images).pooler_output
    shuffled = model.get_image_features(images[order]).pooler_output
    alone = torch.cat([model.get_image_features(image[None]).pooler_output for image in images])
    assert_close(shuffled, together[order], atol=1e-5, rtol=0)
    assert_close(alone, together, atol=1e-5, rtol=0)


@pytest.mark.parametrize("vision", VISION_VARIANTS)
def test_eager_and_fused_attention_agree(vision):
    model = small_model(vision=vision)
    inputs = {"pixel_values": make_images(3), **make_texts([4, 7, 6])}
    model.set_attn_implementation("sdpa")
    fused = model(**inputs)
    model.set_attn_implementation("eager")
    eager = model(**inputs, output_attentions=True)
    assert_close(fused.image_embeds, eager.image_embeds, atol=1e-5, rtol=0)
    assert_close(fused.text_embeds, eager.text_embeds, atol=1e-5, rtol=0)
    for weights in eager.vision_model_output.attentions:
        assert_close(weights.sum(dim=-1), torch.ones_like(weights[..., 0]))
    assert len(eager.vision_model_output.attentions) == 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_nearly_the_same_embeddings(dtype):
    model = small_model(vision={"patch_embedding": "conv_stem"})
    inputs = {"pixel_values": make_images(3), **make_texts([4, 7, 6])}
    full = model(**inputs)
    half = model.to(dtype)(**inputs)
    assert half.image_embeds.dtype == dtype
    for name in ("image_embeds", "text_embeds"):
        cosine = torch.cosine_similarity(full[name], half[name].float(), dim=-1)
        assert cosine.min() > 0.999


def test_a_causal_tower_does_not_look_ahead_and_a_bidirectional_one_does():
    for is_causal in (True, False):
        model = small_model(text={"is_causal": is_causal}).text_model
        texts = make_texts([8])
        before = model(**texts).last_hidden_state
        texts["input_ids"][0, 5] = 250
        after = model(**texts).last_hidden_state
        assert torch.equal(before[0, :5], after[0, :5]) == is_causal
        assert not torch.equal(before[0, 5:], after[0, 5:])


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_positions_are_interpolated_for_other_sizes(pooling):
    model = small_model(vision={"pooling": pooling})
    images = make_images(2, size=48)
    with pytest.raises(ValueError, match=r"48 x 48 .* 32 x 32.*interpolate_pos_encoding=True"):
        model.get_image_features(images)
    outputs = model.get_image_features(images, interpolate_pos_encoding=True)
    assert outputs.last_hidden_state.shape[1] == 36 + int(pooling == "cls")
    wide = make_images(2, size=48)[..., :32, :]
    assert (
        model.get_image_features(wide, interpolate_pos_encoding=True).pooler_output.isfinite().all()
    )
    with pytest.raises(ValueError, match="multiples of 8"):
        model.get_image_features(make_images(1, size=44), interpolate_pos_encoding=True)
    # At its own size, interpolation is the identity.
    embeddings = model.vision_model.embeddings
    positions = embeddings._interpolate_positions(32, 32)
    assert_close(positions, embeddings.position_embedding.weight, atol=1e-6, rtol=0)


def test_flattened_tokens_fix_the_image_size():
    model = small_model(vision={"pooling": "flatten"})
    with pytest.raises(ValueError, match="pooling='flatten' fixes the number of patches"):
        model.get_image_features(make_images(1, size=48), interpolate_pos_encoding=True)


def test_inputs_that_do_not_fit_are_refused_in_one_sentence():
    model = small_model()
    with pytest.raises(ValueError, match=r"17 tokens.*max_position_embeddings=16"):
        model.get_text_features(torch.ones(1, 17, dtype=torch.long))
    with pytest.raises(ValueError, match=r"\(batch, 3, height, width\)"):
        model.get_image_features(torch.zeros(1, 1, 32, 32))
    with pytest.raises(ValueError, match="pixel_values is missing"):
        model(**make_texts([4]))
    with pytest.raises(ValueError, match="input_ids is missing"):
        model(pixel_values=make_images(1))


def test_gradient_checkpointing_changes_no_gradient():
    inputs = {"pixel_values": make_images(4), **make_texts([4, 7, 6, 5]), "return_loss": True}
    gradients = []
    for checkpointing in (False, True):
        model = small_model(vision={"hidden_dropout": 0.2, "drop_path_rate": 0.2}).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        torch.manual_seed(3)
        model(**inputs).loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        assert_close(gradients[1][name], gradient, msg=name)


def test_drop_path_grows_with_depth_and_rests_in_evaluation():
    config = small_config(vision={"num_hidden_layers": 5, "drop_path_rate": 0.4})
    model = ClipVitModel(config)
    rates = [
        getattr(layer.drop_path, "drop_prob", 0.0) for layer in model.vision_model.encoder.layers
    ]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])
    images = make_images(4)
    model.train()
    torch.manual_seed(0)
    assert not torch.equal(
        model.vision_model(images).pooler_output, model.vision_model(images).pooler_output
    )
    model.eval()
    assert torch.equal(
        model.vision_model(images).pooler_output, model.vision_model(images).pooler_output
    )


def test_the_scale_is_a_logarithm_that_is_clamped_when_asked():
    model = small_model(logit_scale_init_value=1.5)
    assert_close(model.get_logit_scale(), torch.tensor(1.5).exp())
    with torch.no_grad():
        model.similarity.logit_scale.fill_(9.0)
    outputs = model(pixel_values=make_images(2), **make_texts([4, 5]))
    # Forward uses the scale as it is: only `clamp_scale` bounds it.
    cosine = outputs.text_embeds @ outputs.image_embeds.t()
    assert_close(outputs.logits_per_text, cosine * torch.tensor(9.0).exp())
    assert torch.equal(outputs.logits_per_image, outputs.logits_per_text.t())
    model.similarity.clamp_scale()
    assert_close(model.get_logit_scale(), torch.tensor(100.0))
    unbounded = small_model(logit_scale_init_value=9.0, logit_scale_max=None)
    unbounded.similarity.clamp_scale()
    assert_close(unbounded.get_logit_scale(), torch.tensor(9.0).exp())


def test_no_parameter_sits_directly_on_a_model():
    for name, _ in small_model(logit_bias_init_value=-10.0).named_parameters():
        assert "." in name
