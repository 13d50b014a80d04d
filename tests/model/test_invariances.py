"""Properties that a right model has, whatever its weights."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoTokenizer, Siglip2ImageProcessor

from modeling_clip_vit import ClipVitForImageClassification, ClipVitModel
from modeling_clip_vit.data.native import cut_patches
from modeling_clip_vit.embeddings import drop_patches, patch_places, patch_spacing
from modeling_clip_vit.normalization import build_norm
from tests.support.models import make_images, make_texts, small_config, small_model

VISION_VARIANTS = [
    {},
    {"pooling": "mean"},
    {"pooling": "flatten", "use_cls_token": True},
    {"patch_embedding": "linear", "pooling": "mean"},
    {"patch_embedding": "conv_stem"},
    {"norm_type": "rmsnorm", "mlp_type": "glu", "hidden_act": "silu", "attention_bias": False},
    {"num_key_value_heads": 1, "head_dim": 16},
    {"attention_bias": False, "attention_q_bias": True, "attention_v_bias": True},
    {"attention_out_bias": False, "mlp_bias": False, "patch_bias": False, "embedding_norm": True},
    {"qk_norm": True, "norm_type": "rmsnorm", "position_embedding_type": "rope"},
    {"qk_norm": True, "norm_type": "dyt", "position_embedding_type": "sincos", "pooling": "map"},
    {"norm_type": "groupnorm", "norm_placement": "post", "final_norm": "none"},
    {"norm_type": "batchnorm", "norm_placement": "sandwich", "final_norm": "after_pooling"},
    {"layer_scale_init_value": 0.1, "num_register_tokens": 3, "pooling": "mean"},
    {"num_register_tokens": 2, "pooling": "mean", "pool_prefix_tokens": True},
    {"position_embedding_type": "none", "patch_dropout": 0.5, "projection_type": "mlp"},
    {"mlp_type": "glu", "hidden_act": "relu2", "adjust_glu_size": True, "projection_bias": True},
    {"attention_type": "sigmoid", "num_key_value_heads": 2},
    {"attention_gate": "headwise", "value_residual": True, "num_key_value_heads": 1},
]
TEXT_VARIANTS = [
    *(
        {"pooling": pooling, "is_causal": is_causal}
        for pooling in ("eos", "mean", "cls", "last", "map")
        for is_causal in (True, False)
    ),
    {"position_embedding_type": "rope", "is_causal": False, "qk_norm": True},
    {"position_embedding_type": "sincos", "norm_type": "rmsnorm", "embedding_norm": True},
    {"position_embedding_type": "none", "norm_type": "groupnorm", "norm_placement": "sandwich"},
    {"norm_type": "batchnorm", "norm_placement": "post", "num_key_value_heads": 1},
    {"norm_type": "dyt", "final_norm": "after_pooling", "layer_scale_init_value": 0.1},
    {
        "attention_type": "sigmoid",
        "num_key_value_heads": 1,
        "attention_gate": "headwise",
        "value_residual": True,
    },
    {"attention_gate": "elementwise", "value_residual": True, "norm_placement": "post"},
    {"attention_type": "sigmoid", "is_causal": False, "position_embedding_type": "rope"},
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
    assert len(eager.vision_model_output.attentions) == 2


def test_weights_of_softmax_attention_sum_to_one():
    model = small_model()
    model.set_attn_implementation("eager")
    for weights in model.vision_model(make_images(3), output_attentions=True).attentions:
        assert_close(weights.sum(dim=-1), torch.ones(3, 4, 17))


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
    # What the model adds to patches of zeros are the positions: torch's own interpolation of them.
    modes = {
        "bicubic": {"mode": "bicubic"},
        "antialiased": {"mode": "bilinear", "antialias": True},
    }
    embeddings = model.vision_model.embeddings
    weight = embeddings.position_embedding.weight[int(pooling == "cls") :]
    grid = weight.unflatten(0, (4, 4)).permute(2, 0, 1)[None]
    for name, mode in modes.items():
        embeddings.config.position_interpolation = name
        for rows, columns in [(4, 4), (6, 6), (4, 6), (3, 2), (1, 9)]:
            expected = torch.nn.functional.interpolate(grid, (rows, columns), **mode)
            places = patch_places(torch.arange(rows * columns)[None], rows, columns, 4)
            spacing = patch_spacing(places, rows, columns, 4)
            zeros = torch.zeros(1, rows * columns, 32)
            added = embeddings._add_positions(zeros, places, spacing, False)
            assert_close(added[0], expected[0].flatten(1).t(), atol=1e-6, rtol=0)


def test_flattened_tokens_fix_the_image_size():
    model = small_model(vision={"pooling": "flatten"})
    with pytest.raises(ValueError, match="pooling='flatten' fixes the number of patches"):
        model.get_image_features(make_images(1, size=48), interpolate_pos_encoding=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_beyond_the_positions_are_cut_as_their_tokenizer_cuts_them(side, checkpoint):
    """Pipelines of Transformers cut nothing."""
    model = ClipVitModel.from_pretrained(checkpoint).eval()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint, padding_side=side)
    texts = ["red", "a red square on white, or rather a large orange one"]
    cut = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    whole = tokenizer(texts, padding=True, return_tensors="pt")
    assert whole["input_ids"].shape[1] > cut["input_ids"].shape[1] == 16
    expected = model.get_text_features(**cut).pooler_output
    assert_close(model.get_text_features(**whole).pooler_output, expected, atol=1e-5, rtol=1e-5)


def test_inputs_that_do_not_fit_are_refused_in_one_sentence():
    model = small_model()
    with pytest.raises(ValueError, match=r"17 tokens.*max_position_embeddings=16"):
        model.text_model(torch.ones(1, 17, dtype=torch.long))
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


NATIVE_VARIANTS = [
    {"pooling": "mean"},
    {"pooling": "cls"},
    {"pooling": "map"},
    {"pooling": "cls", "num_register_tokens": 2, "position_embedding_type": "rope"},
    {"pooling": "map", "position_embedding_type": "sincos", "norm_type": "groupnorm"},
    {"pooling": "mean", "position_embedding_type": "none", "norm_type": "batchnorm"},
    {"pooling": "mean", "patch_embedding": "linear", "qk_norm": True},
    {
        "pooling": "mean",
        "attention_type": "sigmoid",
        "attention_gate": "elementwise",
        "value_residual": True,
    },
]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("vision", NATIVE_VARIANTS)
def test_images_of_different_shapes_in_one_batch_embed_as_alone(vision, attention):
    model = small_model(vision=vision)
    model.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(4)
    pictures = [
        torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
        for height, width in [(32, 32), (16, 48), (40, 24)]
    ]
    processor = Siglip2ImageProcessor(patch_size=8, max_num_patches=16, do_resize=False)
    patches = [
        picture.float().div(127.5).sub(1).unfold(1, 8, 8).unfold(2, 8, 8) for picture in pictures
    ]
    shapes = torch.tensor([patch.shape[1:3] for patch in patches])
    flat = [patch.permute(1, 2, 3, 4, 0).reshape(-1, 192) for patch in patches]
    padded = torch.nn.utils.rnn.pad_sequence(flat, batch_first=True)
    mask = torch.arange(padded.shape[1]) < shapes.prod(dim=1, keepdim=True)
    # Padding must not matter, whatever is in it.
    padded[~mask] = 7.0
    together = model.get_image_features(
        padded, pixel_attention_mask=mask.long(), spatial_shapes=shapes
    ).pooler_output
    for row, picture in enumerate(pictures):
        pixels = picture[None].float() / 127.5 - 1
        alone = model.get_image_features(pixels, interpolate_pos_encoding=True).pooler_output
        assert_close(together[row], alone[0], atol=1e-5, rtol=0)
    # Transformers' processor cuts patches as this model takes them.
    inputs = processor(images=pictures, return_tensors="pt")
    assert processor.patch_size == 8
    again = model.get_image_features(**inputs).pooler_output
    assert again.shape == together.shape


def test_a_classifier_takes_patches_too():
    config = small_config(vision={"pooling": "mean"}).vision_config
    torch.manual_seed(0)
    model = ClipVitForImageClassification(config).eval()
    images = make_images(2)
    mask, shapes = torch.ones(2, 16, dtype=torch.long), torch.tensor([[4, 4]] * 2)
    patches = cut_patches(images, config.patch_size)
    logits = model(patches, pixel_attention_mask=mask, spatial_shapes=shapes).logits
    assert_close(logits, model(images).logits, atol=1e-5, rtol=0)


def test_patches_that_do_not_fit_are_refused():
    model = small_model(vision={"pooling": "mean"})
    with pytest.raises(ValueError, match="pixel_attention_mask and spatial_shapes"):
        model.get_image_features(torch.zeros(1, 16, 192))
    given = {
        "pixel_attention_mask": torch.ones(1, 16, dtype=torch.long),
        "spatial_shapes": torch.tensor([[4, 4]]),
    }
    with pytest.raises(ValueError, match="192 numbers"):
        model.get_image_features(torch.zeros(1, 16, 191), **given)
    for fields in ({"pooling": "flatten"}, {"patch_embedding": "conv_stem"}):
        with pytest.raises(ValueError, match="whole images"):
            small_model(vision=fields).get_image_features(torch.zeros(1, 16, 192), **given)


def test_token_ids_out_of_range_are_refused():
    for token in (300, -1):
        with pytest.raises(
            ValueError, match=rf"token {token}, but this model knows tokens 0 to 299"
        ):
            small_model().get_text_features(torch.tensor([[1, token, 2]]))


def test_dropped_patches_are_fewer_in_training_and_none_in_evaluation():
    model = small_model(vision={"patch_dropout": 0.25, "num_register_tokens": 2}).vision_model
    images = make_images(2)
    assert model(images).last_hidden_state.shape[1] == 1 + 2 + 16
    assert model.train()(images).last_hidden_state.shape[1] == 1 + 2 + 12


def test_dropping_keeps_places_and_drops_padding_first():
    hidden = torch.arange(2 * 6.0).reshape(2, 6, 1)
    places = hidden.expand(2, 6, 2)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
    kept, kept_places, kept_mask = drop_patches(hidden, places, mask, rate=0.5)
    assert kept.shape == (2, 3, 1)
    assert torch.equal(kept.expand(2, 3, 2), kept_places)
    assert kept_mask.tolist()[0] == [1, 1, 1]
    assert sorted(kept_mask.tolist()[1]) == [0, 1, 1]


@pytest.mark.parametrize("placement", ["pre", "post", "sandwich"])
def test_rotary_positions_see_distances_only(placement):
    """Moving all tokens of a text by the same distance changes nothing."""
    rope = {"position_embedding_type": "rope", "norm_placement": placement}
    model = small_model(text={**rope, "is_causal": False, "pooling": "cls"})
    texts = make_texts([7, 7])
    places = torch.arange(7).unsqueeze(0)
    here = model.get_text_features(**texts, position_ids=places).pooler_output
    there = model.get_text_features(**texts, position_ids=places + 40).pooler_output
    assert_close(here, there, atol=1e-4, rtol=0)
    backwards = model.get_text_features(**texts, position_ids=places.flip(1)).pooler_output
    assert (here - backwards).abs().max() > 1e-3


def test_batch_norm_counts_tokens_and_no_padding():
    """Statistics, gradients and running values are torch's over the tokens alone."""
    torch.manual_seed(0)
    config = small_config(vision={"norm_type": "batchnorm"}).vision_config
    ours, theirs = build_norm(config), torch.nn.BatchNorm1d(32, eps=config.layer_norm_eps)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    for _ in range(3):
        hidden = 3 * torch.randn(3, 5, 32) + 1
        hidden[mask == 0] = 1e4
        mine, other = (hidden.clone().requires_grad_() for _ in range(2))
        out, expected = ours(mine, mask), theirs(other[mask.bool()])
        assert_close(out[mask.bool()], expected)
        out[mask.bool()].square().sum().backward()
        expected.square().sum().backward()
        assert_close(mine.grad, other.grad, atol=1e-5, rtol=1e-5)
    assert_close(ours.running_mean, theirs.running_mean)
    assert_close(ours.running_var, theirs.running_var)
    ours.eval(), theirs.eval()
    hidden = torch.randn(2, 4, 32)
    assert_close(ours(hidden), theirs(hidden.flatten(0, 1)).view_as(hidden))
