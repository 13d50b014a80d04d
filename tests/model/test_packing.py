"""Texts that share rows embed as they do alone."""

import pytest
import torch

from modeling_clip_vit.data.packing import plan_for_mask, plan_packing
from modeling_clip_vit.packing import pack, unpack
from tests.support.models import make_images, make_texts, small_model

LENGTHS = [3, 16, 2, 7, 5, 9, 4, 2]
#: Text towers: every pooling, both directions of sight, every kind of position.
TOWERS = {
    "clip": {},
    "siglip": {"is_causal": False, "pooling": "map"},
    "mean, rotary": {"is_causal": False, "pooling": "mean", "position_embedding_type": "rope"},
    "last, sines": {"pooling": "last", "position_embedding_type": "sincos"},
    "batch norm": {"norm_type": "batchnorm", "pooling": "cls", "is_causal": False},
    "grouped, gated": {"num_key_value_heads": 1, "mlp_type": "glu", "qk_norm": True},
    "sigmoid": {"attention_type": "sigmoid", "is_causal": False, "pooling": "mean"},
    "causal sigmoid": {"attention_type": "sigmoid", "num_key_value_heads": 1},
    "output gate, value residual": {
        "attention_gate": "elementwise",
        "value_residual": True,
        "num_key_value_heads": 1,
    },
}


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("name", TOWERS)
def test_a_packed_text_embeds_as_it_does_alone(name, kernel):
    model = small_model(text=TOWERS[name])
    model.set_attn_implementation(kernel)
    texts = make_texts(LENGTHS)
    places = plan_packing(LENGTHS, 16)
    assert places.numel() < texts["input_ids"].numel()
    padded = model.get_text_features(**texts).pooler_output
    packed = model.get_text_features(**texts, packed_places=places).pooler_output
    torch.testing.assert_close(packed, padded, atol=1e-5, rtol=1e-5)
    alone = model.get_text_features(**{key: value[3:4, :7] for key, value in texts.items()})
    torch.testing.assert_close(packed[3:4], alone.pooler_output, atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_padded_texts():
    texts, images = make_texts(LENGTHS), make_images(len(LENGTHS))
    gradients = []
    for more in ({}, {"packed_places": plan_packing(LENGTHS, 16)}):
        model = small_model().double()
        model(pixel_values=images.double(), **texts, return_loss=True, **more).loss.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, atol=1e-12, rtol=1e-9)


def test_packing_there_and_back_loses_nothing():
    lengths = [int(n) for n in torch.randint(1, 30, (50,), generator=torch.Generator())]
    values = torch.randn(50, 30, 4)
    mask = torch.arange(30)[None] < torch.tensor(lengths)[:, None]
    places = plan_packing(lengths, 30)
    back = unpack(pack(values, places), places, 50, 30)
    assert torch.equal(back, values * mask[..., None])
    taken = places[places >= 0]
    assert len(taken) == sum(lengths) == len(taken.unique())


def test_texts_of_full_length_are_not_packed():
    assert plan_for_mask(torch.ones(4, 64)) is None
    assert plan_for_mask(make_texts([2] * 40, 16)["attention_mask"]).shape == (2, 64)


def test_a_kernel_that_cannot_see_segments_is_refused():
    model = small_model()
    model.config.text_config._attn_implementation = "flash_attention_2"
    with pytest.raises(ValueError, match="packed_places is not allowed with 'flash_attention_2'"):
        model.get_text_features(**make_texts(LENGTHS), packed_places=plan_packing(LENGTHS, 16))
