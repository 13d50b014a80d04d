"""Smoothing: the same function, smaller outliers, smaller errors of rounding."""

import copy

import pytest
import torch

from modeling_clip_vit.quantization.eight_bits import fake_quantize
from modeling_clip_vit.quantization.layers import QuantizationError, choose_layers
from modeling_clip_vit.quantization.smoothing import find_pairs, find_peaks, smooth_tower
from tests.support.models import make_images, make_texts, small_model

KINDS = [
    {},
    {"norm_type": "rmsnorm", "mlp_type": "glu"},
    {"norm_type": "groupnorm", "num_norm_groups": 2, "norm_placement": "sandwich"},
    {"norm_type": "batchnorm"},
    {"norm_type": "dyt"},
    {"attention_gate": "elementwise", "value_residual": True},
]


def batches() -> dict[str, list]:
    return {
        "vision_model": [{"pixel_values": make_images(4)}],
        "text_model": [make_texts([4, 6, 5, 9])],
    }


@torch.no_grad()
def add_outliers(model):
    """Channels of every norm a hundred times as large, for the same output."""
    for tower in (model.vision_model, model.text_model):
        for norm, readers in find_pairs(tower):
            norm.weight[:2] *= 100
            if getattr(norm, "bias", None) is not None:
                norm.bias[:2] *= 100
            for linear in readers:
                linear.weight[:, :2] /= 100


def smooth(model):
    for name, inputs in batches().items():
        smooth_tower(getattr(model, name), inputs, 0.5)


@pytest.mark.parametrize("fields", KINDS)
@torch.no_grad()
def test_a_smoothed_model_computes_the_same(fields):
    model = small_model(fields, fields)
    add_outliers(model)
    inputs = {"pixel_values": make_images(4), **make_texts([4, 6, 5, 9])}
    expected = model(**inputs).logits_per_image
    smooth(model)
    torch.testing.assert_close(model(**inputs).logits_per_image, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("fields", KINDS)
@torch.no_grad()
def test_smoothing_makes_outliers_smaller(fields):
    model = small_model(fields, fields)
    add_outliers(model)
    tower, images = model.vision_model, batches()["vision_model"]
    before = find_peaks(tower, find_pairs(tower), images)
    smooth(model)
    after = find_peaks(tower, find_pairs(tower), images)
    for old, new in zip(before, after, strict=True):
        assert new.max() / new.median() < old.max() / old.median() / 5


@torch.no_grad()
def test_rounding_costs_less_after_it():
    model = small_model()
    add_outliers(model)
    inputs = {"pixel_values": make_images(4), **make_texts([4, 6, 5, 9])}
    expected = model(**inputs)
    errors = {}
    for is_smoothed in (False, True):
        rounding = copy.deepcopy(model)
        if is_smoothed:
            smooth(rounding)
        fake_quantize(rounding, choose_layers(rounding), "dynamic")
        outputs = rounding(**inputs)
        errors[is_smoothed] = [
            (outputs[side] - expected[side]).norm() for side in ("image_embeds", "text_embeds")
        ]
    for error, smoothed in zip(errors[False], errors[True], strict=True):
        assert smoothed < error / 2


def test_a_tower_without_such_norms_is_rejected():
    model = small_model({"norm_placement": "post"})
    with pytest.raises(QuantizationError, match="quantization_smoothing needs blocks"):
        smooth_tower(model.vision_model, batches()["vision_model"], 0.5)
