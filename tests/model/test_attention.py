"""Types of attention against their formulas, and what configurations say of them."""

import json

import pytest
import torch
from torch.testing import assert_close

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.attention import SigmoidAttention
from tests.support.models import make_images, make_texts, small_config, small_model

SIGMOID = {"attention_type": "sigmoid"}


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("is_causal", [True, False])
@pytest.mark.parametrize("num_key_value_heads", [1, 2])
def test_sigmoid_attention_is_its_formula(is_causal, num_key_value_heads, kernel):
    """Query by query, of texts of 5 and 3 tokens with padding on the right."""
    model = small_model(
        text={**SIGMOID, "is_causal": is_causal, "num_key_value_heads": num_key_value_heads}
    ).text_model
    model.set_attn_implementation(kernel)
    attention = model.encoder.layers[0].attention
    lengths = [5, 3]
    mask = make_texts(lengths)["attention_mask"]
    hidden = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0))
    query, key, value = attention.project(hidden)
    out, *_ = attention(hidden, model._attention_mask(hidden, mask))
    for row, length in enumerate(lengths):
        for place in range(length):
            seen = place + 1 if is_causal else length
            heads = []
            for head in range(2):
                pair = head * num_key_value_heads // 2
                scores = key[row, pair, :seen] @ query[row, head, place] / 12**0.5
                weights = 1 / (1 + seen * torch.exp(-scores))  # sigmoid(score - log(seen))
                heads.append(weights @ value[row, pair, :seen])
            expected = attention.out_proj(torch.cat(heads))
            assert_close(out[row, place], expected, atol=1e-5, rtol=1e-5)


def test_sigmoid_weights_start_near_a_sum_of_one():
    """Scores are near 0 before training, and the bias then makes n weights of 1 / (n + 1)."""
    config = small_config(vision=SIGMOID).vision_config
    model = ClipVitModel(small_config(vision=SIGMOID)).vision_model.eval()
    assert isinstance(model.encoder.layers[0].attention, SigmoidAttention)
    weights = model(make_images(3), output_attentions=True).attentions[0]
    count = config.grid_size**2 + 1
    assert_close(
        weights.sum(dim=-1), torch.full((3, 4, count), count / (count + 1)), atol=0.02, rtol=0
    )


def test_sigmoid_attention_trains_every_weight_of_both_towers():
    model = small_model(vision=SIGMOID, text=SIGMOID).train()
    model(pixel_values=make_images(4), **make_texts([4, 7, 6, 5]), return_loss=True).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_sigmoid_attention_rejects_kernels_without_a_dense_mask():
    model = small_model(text=SIGMOID)
    model.config.text_config._attn_implementation = "flash_attention_2"
    attention = model.text_model.encoder.layers[0].attention
    with pytest.raises(ValueError, match=r"'flash_attention_2' is not allowed.*use eager or sdpa"):
        attention(torch.randn(1, 4, 24))


def test_a_configuration_from_before_the_field_means_softmax(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    for tower in ("vision_config", "text_config"):
        assert fields[tower].pop("attention_type") == "softmax"
    (tmp_path / "config.json").write_text(json.dumps(fields))
    images = make_images(2)
    again = ClipVitModel.from_pretrained(tmp_path).eval()
    assert torch.equal(
        again.get_image_features(images).pooler_output,
        model.get_image_features(images).pooler_output,
    )


def test_a_type_of_attention_survives_saving(tmp_path):
    model = small_model(vision=SIGMOID)
    model.save_pretrained(tmp_path)
    again = ClipVitModel.from_pretrained(tmp_path).eval()
    images = make_images(2)
    expected = model.get_image_features(images).pooler_output
    assert torch.equal(again.get_image_features(images).pooler_output, expected)


@pytest.mark.parametrize("is_causal", [True, False])
def test_masks_are_made_without_a_warning(is_causal, recwarn):
    """Transformers renames arguments of its mask functions."""
    small_model(text={"is_causal": is_causal}).get_text_features(**make_texts([4, 7]))
    assert [str(warning.message) for warning in recwarn] == []
