"""Runs with rounding in the forward pass: every mode trains, resumes, and leaves both models."""

import json
import signal

import pytest
import torch
from safetensors.torch import load_file
from transformers import BatchFeature

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.loading import TorchEncoder, load_encoder
from modeling_clip_vit.quantization.static import HOOKS
from tests.support.processes import start, wait_for
from tests.support.runs import train, train_in_two_processes, write_recipe

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
    "static": {
        "quantization_mode": "static",
        "quantization_smoothing": 0.5,
        "quantization_freeze_step": 40,
        "ema_decay": 0.9,
    },
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
    assert all(HOOKS not in key for key in load_file(tmp_path / "out" / "model.safetensors"))
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    folders = (tmp_path / "out", tmp_path / "out" / "int8")
    embeds = [
        load_encoder(str(folder)).encode_inputs(BatchFeature({"pixel_values": images}))
        for folder in folders
    ]
    assert torch.cosine_similarity(*embeds).min() > (0.7 if "four" in name else 0.95)
    assert not torch.equal(*embeds)


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_killed_run_resumes_to_the_same_weights(mode, tmp_path, color_dataset, linear_config):
    fields = {
        "quantization_mode": mode,
        "quantization_start_step": 20,
        "quantization_smoothing": 0.5,
        "ema_decay": 0.9,
        "max_steps": 60,
        "save_steps": 10,
        "eval_steps": 0,
        "report_to": "none",
    }
    folders = [tmp_path / "whole", tmp_path / "killed"]
    recipes = []
    for folder in folders:
        folder.mkdir()
        recipes.append(write_recipe(folder, color_dataset, linear_config, **fields))
    process = start(recipes[0])
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    process = start(recipes[1])
    # The checkpoint where the rounding is about to begin, or one behind it.
    wait_for(folders[1] / "out" / "checkpoints" / "step-*[2-5]0", process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folders[1] / "out" / "model.safetensors").exists()
    process = start(recipes[1], "--resume_from_checkpoint", "latest")
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    whole, again = (load_file(folder / "out" / "model.safetensors") for folder in folders)
    for name, value in whole.items():
        assert torch.equal(again[name], value), name
    facts = [
        json.loads((folder / "out" / "int8" / "quantization.json").read_text())
        for folder in folders
    ]
    assert facts[0]["metrics"] == facts[1]["metrics"]


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_two_processes_train_one_model(mode, tmp_path, color_dataset, linear_config):
    fields = {"quantization_mode": mode, "quantization_start_step": 10, "max_steps": 60}
    recipe = write_recipe(
        tmp_path,
        color_dataset,
        linear_config,
        per_device_train_batch_size=8,
        save_steps=0,
        eval_steps=0,
        view_loss_weight=0,
        **fields,
    )
    train_in_two_processes(recipe)
    facts = json.loads((tmp_path / "out" / "int8" / "quantization.json").read_text())
    assert facts["metrics"][RECALL] >= 0.35, facts


def test_blocks_that_round_compile(tmp_path, color_dataset, linear_config):
    fields = {"quantization_mode": "dynamic", "max_steps": 2, "save_steps": 0, "eval_steps": 0}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, bf16=False, **fields)
    one_block = ["--vision_fields.num_hidden_layers", "1", "--text_fields.num_hidden_layers", "1"]
    plain = train(recipe, *one_block)["loss"]
    compiled = [*one_block, "--torch_compile", "true"]
    assert train(recipe, *compiled)["loss"] == pytest.approx(plain, rel=0.2)


def test_bad_input_ends_in_one_sentence(tmp_path, color_dataset, linear_config, capsys):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=30)

    def refused(mode: str, *arguments: str) -> str:
        command = ["train", "--config", str(recipe), "--report_to", "none"]
        assert main([*command, "--quantization_mode", mode, *arguments]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line[:7] == "error: "]
        assert len(lines) == 1
        return lines[0]

    start_step, freeze_step = "--quantization_start_step", "--quantization_freeze_step"
    assert "freeze_step=5 is not allowed: it must be 0, or not before" in refused(
        "static", start_step, "10", freeze_step, "5"
    )
    assert "freeze_step=5 is not allowed with quantization_mode='dynamic'" in refused(
        "dynamic", freeze_step, "5"
    )
    assert "quantization_start_step=30 is not allowed: the run has 30 updates" in refused(
        "dynamic", start_step, "30"
    )
    assert "no layer is called 'text_tower.*'" in refused(
        "dynamic", "--quantization_skip", "[text_tower.*]"
    )
    assert "no layer is called 'text_tower.*'" in refused(
        "static", "--quantization_skip", "[text_tower.*]"
    )
    assert "torch_compile=true is not allowed with quantization_mode='static'" in refused(
        "static", "--torch_compile", "true"
    )
    assert "quantization_smoothing=2.0 is not allowed: from 0 to 1" in refused(
        "dynamic", "--quantization_smoothing", "2"
    )
    assert "quantization_weight_bits=4 is not allowed" in refused(
        "static", "--quantization_weight_bits", "4"
    )
    (tmp_path / "float").mkdir()
    float_recipe = write_recipe(
        tmp_path / "float", color_dataset, linear_config, max_steps=1, eval_steps=0
    )
    train(float_recipe)
    assert main(["quantize", str(tmp_path / "float" / "out"), str(tmp_path / "small")]) == 0
    for mode in ("none", "dynamic", "static"):
        assert "small is quantised already: train the float checkpoint" in refused(
            mode, "--model_name_or_path", str(tmp_path / "small")
        )
    assert not (tmp_path / "out" / "config.json").exists()


def test_another_run_leaves_nothing_of_the_one_before(tmp_path, color_dataset, linear_config):
    fields = {"view_loss_weight": 0, "max_steps": 3, "save_steps": 0, "eval_steps": 0}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **fields)
    rounded = tmp_path / "out" / "int8"
    train(recipe, "--quantization_mode", "static")
    assert (rounded / "export.json").is_file()
    train(recipe, "--quantization_mode", "dynamic")
    assert not list(rounded.glob("*openvino*"))
    assert not (rounded / "export.json").exists()
    assert isinstance(load_encoder(str(rounded)), TorchEncoder)
    train(recipe, "--quantization_mode", "none")
    assert not rounded.exists()
    assert not list((tmp_path / "out").glob(".*"))
