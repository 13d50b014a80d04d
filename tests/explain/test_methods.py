"""What the methods compute, against captum and against what they promise."""

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, Occlusion
from torch.testing import assert_close
from transformers import Dinov2Config, ResNetConfig, Siglip2ImageProcessor

from modeling_clip_vit import ClipVitConfig, ClipVitModel
from modeling_clip_vit.explain.match import Match, cosines, prepare
from modeling_clip_vit.explain.methods import METHODS, integrated_gradients, occlusion
from modeling_clip_vit.inference.loading import TorchEncoder
from modeling_clip_vit.utils.errors import UserError
from tests.support.matches import match_of, noise
from tests.support.models import TEXT, small_model
from tests.support.peers import stir

#: Image towers: every pooling, and attention of every form.
TOWERS = {
    "cls": {"pooling": "cls", "use_cls_token": True},
    "mean": {"pooling": "mean"},
    "map": {"pooling": "map"},
    "flatten": {"pooling": "flatten"},
    "sigmoid attention": {"pooling": "mean", "attention_type": "sigmoid"},
    "grouped queries, rotary positions": {
        "pooling": "map",
        "num_key_value_heads": 2,
        "position_embedding_type": "rope",
        "qk_norm": True,
    },
    "output gate, value residual": {
        "pooling": "mean",
        "attention_gate": "headwise",
        "value_residual": True,
    },
    "registers, norm after pooling": {
        "pooling": "mean",
        "num_register_tokens": 2,
        "final_norm": "after_pooling",
    },
    "convolutional stem": {"pooling": "flatten", "patch_embedding": "conv_stem"},
}
#: Encoders of Transformers and timm.
FOREIGN = {
    "dinov2": Dinov2Config(
        hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    ).to_dict(),
    "resnet": ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1]).to_dict(),
    "timm's swin": {
        "model_type": "timm_wrapper",
        "architecture": "swin_tiny_patch4_window7_224",
        "model_args": {"depths": [1, 1, 1, 1], "embed_dim": 24, "img_size": 32, "window_size": 4},
    },
}
ALL = {**TOWERS, **FOREIGN}


def foreign_model(name: str) -> ClipVitModel:
    torch.manual_seed(0)
    config = ClipVitConfig(vision_config=FOREIGN[name], text_config=TEXT, projection_dim=16)
    return stir(ClipVitModel(config))


@pytest.fixture(scope="module")
def matches(processor):
    """A match with each kind of image tower, made once."""
    made: dict[str, Match] = {}

    def match(name: str) -> Match:
        if name not in made:
            model = foreign_model(name) if name in FOREIGN else small_model(vision=TOWERS[name])
            made[name] = match_of(model, processor)
        return made[name]

    return match


def score(match: Match):
    """The cosine as captum wants it: of pictures alone."""
    return lambda pixels: cosines(match.image_outputs(pixels).pooler_output, match.text_embeds)


@pytest.mark.parametrize("name", ALL)
def test_integrated_gradients_are_those_of_captum(matches, name):
    match = matches(name)
    expected = IntegratedGradients(score(match)).attribute(
        match.pixels, match.blank_pixels, n_steps=8, method="gausslegendre"
    )
    values = METHODS["integrated_gradients"].explain_picture(match).values
    assert_close(values, match.cells.sum(expected[0].detach()), atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("window", [1, 2])
@pytest.mark.parametrize("name", ["flatten", "map", "resnet"])
def test_occlusion_is_that_of_captum(matches, name, window):
    match = prepare(matches(name).encoder, noise(), "a red square", grid=8)
    side = 4
    expected = Occlusion(score(match)).attribute(
        match.pixels,
        sliding_window_shapes=(3, side * window, side * window),
        strides=(3, side, side),
        baselines=match.blank_pixels,
    )
    values = occlusion.explain_picture(match, window).values
    assert_close(values, expected[0, 0, ::side, ::side], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("method", ["integrated_gradients", "occlusion"])
@pytest.mark.parametrize("name", ALL)
def test_another_text_has_another_map(matches, processor, name, method):
    match = matches(name)
    other = match_of(match.model, processor, "something brown")
    first, second = (METHODS[method].explain_picture(one).values for one in (match, other))
    assert (first - second).norm() > 0.05 * first.norm()


@pytest.mark.parametrize("name", ["mean", "flatten", "sigmoid attention", "convolutional stem"])
def test_shares_add_up_to_the_cosine(matches, name):
    match = matches(name)
    values = METHODS["shares"].explain_picture(match)
    assert values.values.sum().item() == pytest.approx(match.cosine, abs=1e-5)
    assert values.values.abs().max() > 1e-3


def test_shares_are_those_of_the_states(processor):
    """By the formula: the projection of each state, of the mean."""
    model = small_model(vision={"pooling": "mean", "num_register_tokens": 1})
    match = match_of(model, processor)
    with torch.no_grad():
        outputs = match.image_outputs(match.pixels)
        states = outputs.last_hidden_state[0, 1:]
        terms = states @ model.visual_projection.weight.t() / len(states)
        expected = terms @ match.text_embeds[0] / terms.sum(dim=0).norm()
    values = METHODS["shares"].explain_picture(match).values
    assert_close(values.flatten(), expected, atol=1e-6, rtol=1e-4)


def test_shares_of_words_are_those_of_the_states(processor):
    model = small_model(text={"pooling": "mean", "is_causal": False})
    match = match_of(model, processor)
    values = METHODS["shares"].explain_text(match)
    with torch.no_grad():
        states = match.text_outputs(1).last_hidden_state[0]
        terms = states @ model.text_projection.weight.t() / len(states)
        terms = terms @ match.image_embeds[0] / terms.sum(dim=0).norm()
    expected = torch.stack([terms[word.tokens].sum() for word in match.text.words])
    assert_close(values.values, expected, atol=1e-6, rtol=1e-4)
    assert values.values.sum().item() + values.rest == pytest.approx(match.cosine, abs=1e-5)


def test_shares_of_words_are_rejected_where_the_cosine_is_no_sum(processor):
    match = match_of(small_model(), processor)
    with pytest.raises(UserError, match=r"words_method='shares' .* pooling='eos'"):
        METHODS["shares"].explain_text(match)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cls", "pooling='cls'"),
        ("map", "pooling='map'"),
        ("registers, norm after pooling", "final_norm='after_pooling'"),
        ("timm's swin", "'timm_wrapper' pools in its own way"),
    ],
)
def test_shares_are_rejected_where_the_cosine_is_no_sum(matches, name, reason):
    with pytest.raises(UserError, match=reason):
        METHODS["shares"].explain_picture(matches(name))


def test_legrad_is_rejected_for_a_tower_of_another_type(matches):
    with pytest.raises(UserError, match="'dinov2', and this reads the attention"):
        METHODS["legrad"].explain_picture(matches("dinov2"))


@pytest.mark.parametrize("name", TOWERS)
def test_legrad_leaves_the_model_as_it_was(matches, name):
    match = matches(name)
    values = METHODS["legrad"].explain_picture(match).values
    model = match.model
    assert values.min() >= 0
    assert values.max() > 0
    assert model.vision_model.config._attn_implementation == "sdpa"
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


def test_many_steps_leave_the_cosine_of_the_blank_picture(matches):
    match = matches("flatten")
    rest = integrated_gradients.explain_picture(match, steps=64).rest
    blank = match.cosines_of_pictures(match.blank_pixels).item()
    assert rest == pytest.approx(blank, abs=1e-3)


def test_gradients_of_words_are_those_of_captum(processor):
    match = match_of(small_model(), processor)
    embedding = match.model.text_model.get_input_embeddings()
    whole = embedding(match.text.inputs["input_ids"]).detach()
    blank = whole.clone()
    blank[:, [token for word in match.text.words for token in word.tokens]] = 0

    def score(states):
        handle = embedding.register_forward_hook(lambda *call: states)
        outputs = match.text_outputs(len(states)).pooler_output
        handle.remove()
        return cosines(outputs, match.image_embeds)

    expected = IntegratedGradients(score).attribute(whole, blank, n_steps=8, method="gausslegendre")
    tokens = expected[0].sum(dim=-1)
    values = METHODS["integrated_gradients"].explain_text(match).values
    assert_close(
        values,
        torch.stack([tokens[word.tokens].sum() for word in match.text.words]).detach(),
        atol=1e-5,
        rtol=1e-3,
    )


def test_a_word_is_worth_what_the_text_without_it_loses(processor):
    match = match_of(small_model(), processor, "a red 方块")
    texts = match.encoder.encode_text(
        ["a red 方块", " red 方块", "a  方块", "a red 块", "a red 方"]
    )
    scores = texts @ match.image_embeds[0]
    values = METHODS["occlusion"].explain_text(match).values
    assert [match.text.text[w.start : w.end] for w in match.text.words] == ["a", "red", "方", "块"]
    assert_close(values, scores[0] - scores[1:], atol=1e-6, rtol=0)


def test_patches_of_pictures_of_any_shape_are_cells(processor):
    """Siglip2's flattened patches, whose grid is the picture's own."""
    model = small_model(vision={"pooling": "mean"})
    processor = type(processor)(
        Siglip2ImageProcessor(patch_size=8, max_num_patches=16), processor.tokenizer
    )
    match = prepare(TorchEncoder(model, processor), noise(64, 32), "a red square")
    rows, columns = match.cells.rows, match.cells.columns
    assert columns > rows
    shares = METHODS["shares"].explain_picture(match)
    assert shares.values.shape == (rows, columns)
    assert shares.values.sum().item() == pytest.approx(match.cosine, abs=1e-5)
    values = occlusion.explain_picture(match, 1).values
    hidden = match.pixels.clone()
    hidden[0, columns + 1] = match.blank_pixels[0, columns + 1]
    expected = match.cosine - match.cosines_of_pictures(hidden).item()
    assert values[1, 1].item() == pytest.approx(expected, abs=1e-6)
    METHODS["integrated_gradients"].explain_picture(match)


def test_half_precision_gives_about_the_same(processor):
    model = small_model(vision={"pooling": "map"})
    whole = METHODS["integrated_gradients"].explain_picture(match_of(model, processor)).values
    half = (
        METHODS["integrated_gradients"]
        .explain_picture(match_of(model.bfloat16(), processor))
        .values
    )
    assert np.corrcoef(whole.flatten(), half.flatten())[0, 1] > 0.9
