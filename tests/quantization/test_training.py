"""Runs with rounding in the forward pass: every mode trains, resumes, and leaves both models."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import BatchFeature

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.loading import TorchEncoder, load_encoder
from modeling_clip_vit.quantization.static import HOOKS
from tests.support.runs import (
    assert_same_weights,
    kill_after,
    output_of,
    read_log,
    train,
    train_in_two_processes,
    write_recipe,
    write_recipes,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

RECALL = "validation/caption_en/text_to_image/R@1"
#: Eight colours: guessing finds one in eight.
LEARNED = 0.35
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


@pytest.fixture(scope="module")
def trained(tmp_path_factory, color_dataset, linear_config) -> Callable[[str], Path]:
    """Trains with the options of a name, each once; returns the output folder."""
    root = tmp_path_factory.mktemp("trained")

    def make(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            fields = {"view_loss_weight": 0, "max_steps": 60, "save_steps": 0, "eval_steps": 25}
            folder.mkdir()
            train(write_recipe(folder, color_dataset, linear_config, **fields, **OPTIONS[name]))
        return folder / "out"

    return make


def read_facts(folder: Path) -> dict:
    """What a run reports of its rounded model."""
    return json.loads((folder / "int8" / "quantization.json").read_text())


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("metrics", ["metrics", "float_metrics"])
def test_both_models_learn(trained, name, metrics):
    facts = read_facts(trained(name))
    assert facts[metrics][RECALL] >= LEARNED


@pytest.mark.parametrize("name", OPTIONS)
def test_the_rounded_model_is_smaller(trained, name):
    facts = read_facts(trained(name))
    assert facts["bytes"] < facts["float_bytes"]


@pytest.mark.parametrize("name", OPTIONS)
def test_the_float_model_has_no_trace_of_rounding(trained, name):
    weights = load_file(trained(name) / "model.safetensors")
    assert all(HOOKS not in key and value.dtype == torch.float32 for key, value in weights.items())


@pytest.mark.parametrize("name", OPTIONS)
def test_the_rounded_model_embeds_nearly_as_the_float_one(trained, name):
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    embeds = [
        load_encoder(str(folder)).encode_inputs(BatchFeature({"pixel_values": images}))
        for folder in (trained(name), trained(name) / "int8")
    ]
    least = 0.7 if "four" in name else 0.95
    assert least < torch.cosine_similarity(*embeds).min() < 1 - 1e-6


def stored_integers(folder: Path) -> dict[str, torch.Tensor]:
    """The rounded weights of a saved model, by name."""
    weights = load_file(folder / "int8" / "model.safetensors")
    return {
        name: value
        for name, value in weights.items()
        if value.dtype == torch.int8 and not name.endswith("zero_point")
    }


@pytest.mark.parametrize(("name", "largest"), [("dynamic", 127), ("four bits, late", 7)])
def test_weights_have_as_many_bits_as_the_option_says(trained, name, largest):
    every = stored_integers(trained(name)).values()
    assert {int(weight.max()) for weight in every} == {largest}


@pytest.mark.parametrize(
    ("name", "is_rounded"), [("dynamic", False), ("weights and embeddings", True)]
)
def test_token_embeddings_are_rounded_where_the_option_says_so(trained, name, is_rounded):
    names = stored_integers(trained(name))
    assert any("token_embedding" in name for name in names) == is_rounded


#: A few updates with the loss of each.
SHORT = {"max_steps": 6, "eval_steps": 0, "save_steps": 0, "logging_steps": 1, "bf16": False}


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_rounding_starts_at_its_step(mode, tmp_path, color_dataset, linear_config):
    # Exchanging the layers draws random numbers, which dropout would draw otherwise.
    certain = {"vision_fields": {"drop_path_rate": 0.0, "hidden_dropout": 0.0}}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **SHORT, **certain)
    losses = []
    for arguments in ([], ["--quantization_mode", mode, "--quantization_start_step", "3"]):
        train(recipe, *arguments)
        losses.append([line["loss"] for line in read_log(output_of(recipe))])
    plain, rounded = losses
    assert rounded[:3] == pytest.approx(plain[:3], rel=1e-5)
    assert rounded[3] != pytest.approx(plain[3], rel=1e-5)


def test_ranges_learn_until_the_freeze_step(tmp_path, color_dataset, linear_config):
    fields = {**SHORT, "save_steps": 2, "save_total_limit": 9}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **fields)
    freeze = ("--quantization_freeze_step", "4")
    train(recipe, "--quantization_mode", "static", *freeze)
    ranges = []
    for step in (2, 4, 6):
        file = output_of(recipe) / "checkpoints" / f"step-{step:08d}" / "model.safetensors"
        state = load_file(file)
        ranges.append(torch.cat([state[name].flatten() for name in state if HOOKS in name]))
    assert not torch.equal(ranges[0], ranges[1])
    assert torch.equal(ranges[1], ranges[2])


def test_smoothing_moves_outliers_into_the_weights(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **{**SHORT, "max_steps": 1})
    norms = []
    for smoothing in ("0", "0.5"):
        train(recipe, "--quantization_mode", "dynamic", "--quantization_smoothing", smoothing)
        weights = load_file(output_of(recipe) / "model.safetensors")
        norms.append(weights["vision_model.encoder.layers.0.norm1.weight"])
    assert (norms[0] - norms[1]).abs().max() > 0.05


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_a_killed_run_resumes_to_the_same_models(mode, tmp_path, color_dataset, linear_config):
    fields = {
        "quantization_mode": mode,
        "quantization_start_step": 20,
        "quantization_smoothing": 0.5,
        "ema_decay": 0.9,
        "max_steps": 60,
        "save_steps": 10,
        "eval_steps": 0,
    }
    whole, killed = write_recipes(
        tmp_path, ("whole", "killed"), color_dataset, linear_config, **fields
    )
    train(whole)
    # The checkpoint where the rounding is about to begin, or a later one.
    kill_after(killed, "step-*[2-5]0")
    train(killed, "--resume_from_checkpoint", "latest")
    assert_same_weights(output_of(killed), output_of(whole))
    assert read_facts(output_of(killed))["metrics"] == read_facts(output_of(whole))["metrics"]


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
    assert read_facts(output_of(recipe))["metrics"][RECALL] >= LEARNED


def test_blocks_that_round_compile(tmp_path, color_dataset, linear_config):
    fields = {"quantization_mode": "dynamic", "max_steps": 2, "save_steps": 0, "eval_steps": 0}
    fields["vision_fields"] = {"drop_path_rate": 0.0, "hidden_dropout": 0.0, "num_hidden_layers": 1}
    fields["text_fields"] = {"num_hidden_layers": 1}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, bf16=False, **fields)
    plain = train(recipe)["loss"]
    counters = torch._dynamo.utils.counters
    counters.clear()
    assert train(recipe, "--torch_compile", "true")["loss"] == pytest.approx(plain, rel=0.02)
    assert counters["frames"]["ok"] > 0


START, FREEZE = "--quantization_start_step", "--quantization_freeze_step"
#: What the error says -> the mode and other options.
REJECTED = {
    "freeze_step=5 is not allowed: it must be 0, or not before": (
        "static",
        (START, "10", FREEZE, "5"),
    ),
    "freeze_step=5 is not allowed with quantization_mode='dynamic'": ("dynamic", (FREEZE, "5")),
    "quantization_start_step=30 is not allowed: the run has 30 updates": (
        "dynamic",
        (START, "30"),
    ),
    "no layer is called 'text_tower.d'": (
        "dynamic",
        ("--quantization_skip", "[text_tower.d]"),
    ),
    "no layer is called 'text_tower.s'": (
        "static",
        ("--quantization_skip", "[text_tower.s]"),
    ),
    "torch_compile=true is not allowed with quantization_mode='static'": (
        "static",
        ("--torch_compile", "true"),
    ),
    "quantization_smoothing=2.0 is not allowed: from 0 to 1": (
        "dynamic",
        ("--quantization_smoothing", "2"),
    ),
    "quantization_weight_bits=4 is not allowed": ("static", ("--quantization_weight_bits", "4")),
}


def reject(capsys, recipe: Path, *arguments: str) -> str:
    """The one sentence in which a run ends before it begins."""
    assert main(["train", "--config", str(recipe), "--report_to", "none", *arguments]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert not (output_of(recipe) / "config.json").exists()
    return line


@pytest.mark.parametrize("sentence", REJECTED)
def test_options_that_do_not_fit_are_rejected(
    sentence, tmp_path, color_dataset, linear_config, capsys
):
    mode, arguments = REJECTED[sentence]
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=30)
    assert sentence in reject(capsys, recipe, "--quantization_mode", mode, *arguments)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory, checkpoint) -> Path:
    folder = tmp_path_factory.mktemp("quantised") / "small"
    assert main(["quantize", str(checkpoint), str(folder)]) == 0
    return folder


@pytest.mark.parametrize("mode", ["none", "dynamic", "static"])
def test_a_quantised_checkpoint_is_not_trained(
    mode, quantised, tmp_path, color_dataset, linear_config, capsys
):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=30)
    model = ("--model_name_or_path", str(quantised))
    message = reject(capsys, recipe, "--quantization_mode", mode, *model)
    assert "small is quantised already: train the float checkpoint" in message


#: Three updates.
BRIEF = {"view_loss_weight": 0, "max_steps": 3, "save_steps": 0, "eval_steps": 0}


def test_a_run_with_another_mode_replaces_the_rounded_model(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **BRIEF)
    rounded = output_of(recipe) / "int8"
    train(recipe, "--quantization_mode", "static")
    assert (rounded / "export.json").is_file()
    train(recipe, "--quantization_mode", "dynamic")
    assert not list(rounded.glob("*openvino*"))
    assert not (rounded / "export.json").exists()
    assert isinstance(load_encoder(str(rounded)), TorchEncoder)


def test_a_run_without_rounding_leaves_no_rounded_model(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **BRIEF)
    train(recipe, "--quantization_mode", "dynamic")
    train(recipe, "--quantization_mode", "none")
    assert not (output_of(recipe) / "int8").exists()
    assert not list(output_of(recipe).glob(".*"))
