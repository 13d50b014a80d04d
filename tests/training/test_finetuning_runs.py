"""Whole runs that fine-tune: what they leave, killed ones, and two processes."""

import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch.testing import assert_close
from transformers import AutoModel, AutoProcessor

from modeling_clip_vit import ClipVitForImageClassification
from modeling_clip_vit.inference.embedding import embed_texts
from modeling_clip_vit.pretrained import load_whole
from tests.support.runs import (
    assert_same_weights,
    kill_after,
    output_of,
    train,
    train_in_two_processes,
    write_recipe,
    write_recipes,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

LATEST = ("--resume_from_checkpoint", "latest")
LORA = {"peft_type": "LORA", "modules_to_save": ["similarity"], "optim": "adamw"}
TEXTS = ["a red square", "a blue square"]


@pytest.fixture(scope="module")
def published(tmp_path_factory, color_dataset, model_config_folder) -> Path:
    """The output folder of a short run, to be fine-tuned."""
    folder = tmp_path_factory.mktemp("published")
    fields = {"max_steps": 40, "eval_steps": 0, "save_steps": 0}
    train(write_recipe(folder, color_dataset, model_config_folder, **fields))
    return folder / "out"


@pytest.fixture(scope="module")
def adapted(tmp_path_factory, published, color_dataset, model_config_folder) -> Path:
    """The output folder of a run that trained an adapter, and measured what is before its end."""
    folder = tmp_path_factory.mktemp("adapted")
    fields = {"wise_ft": [0, 0.5, 1], "model_name_or_path": str(published), **LORA}
    recipe = write_recipe(folder, color_dataset, model_config_folder, max_steps=40, **fields)
    train(recipe, "--save_steps", "0")
    return folder / "out"


@torch.no_grad()
def text_embeds(model, folder: Path) -> torch.Tensor:
    return embed_texts(model, AutoProcessor.from_pretrained(folder).tokenizer, TEXTS)


def test_the_adapter_on_the_published_model_is_the_merged_model(adapted, published):
    base = AutoModel.from_pretrained(published).eval()
    before = text_embeds(base, published)
    merged = text_embeds(load_whole(AutoModel, str(adapted)).eval(), adapted)
    tuned = PeftModel.from_pretrained(base, adapted / "adapter").base_model.model.eval()
    assert (merged - before).abs().max() > 1e-2
    assert_close(text_embeds(tuned, published), merged, atol=1e-5, rtol=1e-5)


def test_the_adapter_names_the_model_beneath(adapted, published):
    config = json.loads((adapted / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(published)
    assert config["auto_mapping"]["base_model_class"] == "ClipVitModel"


def test_what_was_measured_from_start_to_end_is_in_card_and_metrics(adapted):
    content = json.loads((adapted / "metrics.json").read_text())
    assert [point["alpha"] for point in content["wise_ft"]] == [0, 0.5, 1]
    for name, value in content["wise_ft"][2]["metrics"].items():
        assert value == pytest.approx(content["metrics"][name], abs=1e-6)
    assert content["wise_ft"][0]["metrics"] != content["metrics"]
    assert "| share of the end |" in (adapted / "README.md").read_text()
    assert (adapted / "wise_ft.png").is_file()


def test_a_run_without_adapter_removes_that_of_the_model_it_replaces(
    adapted, published, tmp_path, color_dataset, model_config_folder
):
    recipe = write_recipe(tmp_path, color_dataset, model_config_folder, max_steps=2)
    options = ("--model_name_or_path", str(published), "--save_steps", "0")
    train(recipe, *options, "--peft_type", "LORA")
    assert (tmp_path / "out" / "adapter" / "adapter_model.safetensors").is_file()
    train(recipe, *options)
    assert not (tmp_path / "out" / "adapter").exists()


#: What is trained -> the fields of its recipe.
RUNS = {
    "lora": {**LORA, "ema_decay": 0.9, "lora_dropout": 0.1},
    "dora by muon": {"peft_type": "LORA", "peft_fields": {"use_dora": True}},
    "all weights": {"l2_sp_weight": 0.01, "head_first_steps": 25, "wise_ft_alpha": 0.5},
}


@pytest.mark.parametrize("name", RUNS)
def test_a_killed_run_resumes_to_the_same_weights(
    name, tmp_path, published, color_dataset, model_config_folder
):
    fields = {"model_name_or_path": str(published), "max_steps": 60, "eval_steps": 0, **RUNS[name]}
    names = ("whole", "killed")
    whole, killed = write_recipes(tmp_path, names, color_dataset, model_config_folder, **fields)
    train(whole)
    kill_after(killed, "step-*20")
    train(killed, *LATEST)
    assert_same_weights(output_of(killed), output_of(whole))
    adapters = [output_of(one) / "adapter" / "adapter_model.safetensors" for one in (whole, killed)]
    if "peft_type" in fields:
        expected, actual = (load_file(path) for path in adapters)
        assert all(torch.equal(actual[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", ["lora", "all weights"])
def test_two_processes_train_what_one_does(name, tmp_path, color_dataset, linear_config):
    folder = tmp_path / "start"
    folder.mkdir()
    without_chance = {"vision_fields": {"hidden_dropout": 0, "drop_path_rate": 0}}
    short = {"eval_steps": 0, "save_steps": 0, "evaluations": []}
    train(write_recipe(folder, color_dataset, linear_config, max_steps=2, **short))
    fields = {**RUNS[name], **short, **without_chance, "lora_dropout": 0, "optim": "adamw"}
    if "head_first_steps" in fields:
        fields["head_first_steps"] = 5
    fields |= {"model_name_or_path": str(folder / "out"), "max_steps": 10}
    one, two = write_recipes(tmp_path, ("one", "two"), color_dataset, linear_config, **fields)
    train(one)
    recipe = json.loads(two.read_text())
    two.write_text(json.dumps({**recipe, "per_device_train_batch_size": 8}))
    train_in_two_processes(two)
    assert_same_weights(output_of(two), output_of(one), tolerance=2e-4)


def test_bfloat16_trains_an_adapter_and_the_merged_weights_are_float32(
    tmp_path, published, color_dataset, model_config_folder
):
    fields = {"model_name_or_path": str(published), "max_steps": 10, "bf16": True, **LORA}
    train(write_recipe(tmp_path, color_dataset, model_config_folder, **fields, save_steps=0))
    before, after = (load_file(f / "model.safetensors") for f in (published, tmp_path / "out"))
    assert {value.dtype for value in after.values() if value.is_floating_point()} == {torch.float32}
    assert any(not torch.equal(after[name], before[name]) for name in before)


def test_a_classifier_learns_through_an_adapter_and_a_head_of_its_own(
    tmp_path, published, color_dataset, model_config_folder
):
    recipe = {
        "task": "classification",
        "dataset": str(color_dataset),
        "label_column": "kind",
        "evaluations": [{"split": "validation"}],
        "model_name_or_path": str(published),
        "max_steps": 20,
        "per_device_train_batch_size": 16,
        "save_steps": 0,
        "output_dir": str(tmp_path / "out"),
        "peft_type": "LORA",
        "wise_ft": [0, 1],
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(recipe))
    train(path)
    merged = ClipVitForImageClassification.from_pretrained(tmp_path / "out").eval()
    base = ClipVitForImageClassification.from_pretrained(
        published, num_labels=merged.config.num_labels
    )
    tuned = PeftModel.from_pretrained(base, tmp_path / "out" / "adapter").eval()
    pixels = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        logits = tuned(pixel_values=pixels).logits
        assert_close(logits, merged(pixel_values=pixels).logits, atol=1e-5, rtol=1e-5)
