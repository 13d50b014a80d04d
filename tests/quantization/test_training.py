"""Runs with rounding in the forward pass: every mode trains, resumes, and leaves both models."""

import json
import subprocess
import sys

import pytest
import torch
from conftest import REPOSITORY, run_without_package, start, train, wait_for, write_recipe
from safetensors.torch import load_file

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.loading import load_clip
from modeling_clip_vit.quantization.static import OpenVinoClip

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

RECALL = "validation/caption_en/text_to_image/R@1"
OPTIONS = {
    "dynamic": {"quantization_mode": "dynamic"},
    "weights and embeddings": {
        "quantization_mode": "weight_only",
        "quantization_embeddings": True,
        "gradient_checkpointing": True,
    },
    "four bits, late": {
        "quantization_mode": "dynamic",
        "quantization_weight_bits": 4,
        "quantization_start_step": 20,
        "ema_decay": 0.9,
    },
    "gradient cache": {"quantization_mode": "dynamic", "gradient_cache_batch_size": 5},
    "static": {"quantization_mode": "static", "quantization_freeze_step": 40, "ema_decay": 0.9},
    "static, late": {
        "quantization_mode": "static",
        "quantization_start_step": 30,
        "gradient_cache_batch_size": 5,
        "ema_decay": 0.9,
    },
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_mode_trains_and_leaves_both_models(name, tmp_path, color_dataset, linear_config):
    fields = {"view_loss_weight": 0, "max_steps": 60, "save_steps": 0, "eval_steps": 25}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **fields, **OPTIONS[name])
    train(recipe)
    facts = json.loads((tmp_path / "out" / "int8" / "quantization.json").read_text())
    # Eight colours: guessing finds one in eight.
    assert facts["metrics"][RECALL] >= 0.35, facts
    assert facts["float_metrics"][RECALL] >= 0.35, facts
    assert facts["bytes"] < facts["float_bytes"]
    plain, _ = load_clip(str(tmp_path / "out"))
    assert all("nncf" not in key for key in load_file(tmp_path / "out" / "model.safetensors"))
    if "static" in name:
        quantized = OpenVinoClip.from_pretrained(tmp_path / "out" / "int8")
    else:
        quantized, _ = load_clip(str(tmp_path / "out" / "int8"))
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    embeds = [model.get_image_features(images).pooler_output for model in (plain, quantized)]
    assert torch.cosine_similarity(*embeds).min() > (0.7 if "four" in name else 0.98)
    assert not torch.equal(*embeds)
