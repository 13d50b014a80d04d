"""The whole product in small: train, save, load elsewhere, search, resume, distribute, export.

Everything here is tested more closely in the tiers that a plain `pytest` leaves out. Conversion
from each peer is in tests/conversion, which a plain run includes.
"""

import json
from pathlib import Path

import pytest
from PIL import Image

from modeling_clip_vit.cli import main
from tests.support.pictures import COLORS, draw_picture
from tests.support.processes import run_example, run_without_package
from tests.support.runs import (
    assert_same_weights,
    kill_after,
    output_of,
    read_log,
    train,
    train_in_two_processes,
    write_recipe,
)

STEPS = 60
FIELDS = {
    "max_steps": STEPS,
    "eval_steps": 0,
    "save_steps": 20,
    # Everything random but what differs between processes: each drops its own.
    "vision_fields": {"drop_path_rate": 0.0, "hidden_dropout": 0.0},
}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, color_dataset, linear_config) -> dict[str, Path]:
    """A recipe for each run, in a folder of its own."""
    recipes = {}
    short = {"max_steps": 4, "optim": "adamw", "logging_steps": 1}
    runs = {
        "whole": {},
        "killed": {},
        "alone": short,
        "shared": {**short, "per_device_train_batch_size": 8},
    }
    for name, fields in runs.items():
        folder = tmp_path_factory.mktemp(name)
        fields = {**FIELDS, **fields}
        recipes[name] = write_recipe(folder, color_dataset, linear_config, **fields)
    return recipes


@pytest.fixture(scope="module")
def trained(recipes) -> Path:
    """The output folder of a run."""
    train(recipes["whole"])
    return output_of(recipes["whole"])


def test_a_run_leaves_all_its_files(trained):
    names = {path.name for path in trained.iterdir()}
    assert names >= {
        *("README.md", "config.json", "metrics.json", "model.safetensors"),
        *("processor_config.json", "tokenizer.json", "modeling_clip_vit.py"),
        *("retrieval.png", "training_curves.png", "training_log.jsonl"),
    }
    assert Image.open(trained / "retrieval.png").size[0] > 400


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_run_learns_both_languages(trained, language):
    metrics = json.loads((trained / "metrics.json").read_text())["metrics"]
    # Guessing finds one colour in eight.
    assert metrics[f"validation/caption_{language}/text_to_image/R@1"] >= 0.5


def test_the_model_loads_where_this_package_is_not(trained, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    draw_picture("red", 7).save(tmp_path / "red.png")
    code = """
        from PIL import Image
        from transformers import AutoModel, AutoProcessor
        model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).eval()
        processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
        inputs = processor(
            text=["a red square", "蓝色方块"], images=Image.open("red.png"),
            return_tensors="pt", padding=True,
        )
        print(model(**inputs).logits_per_image.tolist())
    """
    output = run_without_package(code, tmp_path, str(trained))
    logits = json.loads(output.splitlines()[-1])
    assert logits[0][0] > logits[0][1]


@pytest.mark.parametrize("query", ["a green square", "绿色方块"])
def test_search_finds_pictures_by_text(trained, query, tmp_path, capsys):
    for number, color in enumerate(COLORS):
        draw_picture(color, 50 + number).save(tmp_path / f"{color}.png")
    assert main(["search", str(trained), query, "--images", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[1].endswith("green.png")


def test_a_killed_run_goes_on_to_the_same_weights(trained, recipes):
    kill_after(recipes["killed"], "step-*")
    train(recipes["killed"], "--resume_from_checkpoint", "latest")
    assert_same_weights(output_of(recipes["killed"]), trained)


def test_two_processes_train_what_one_does(recipes):
    """The same images have the same losses and gradients, one update after the other."""
    train(recipes["alone"])
    train_in_two_processes(recipes["shared"])
    alone, shared = (read_log(output_of(recipes[name])) for name in ("alone", "shared"))
    assert [line["step"] for line in alone] == [1, 2, 3, 4]
    for line, other in zip(alone, shared, strict=True):
        for name in ("loss", "gradient_norm", "logit_scale"):
            assert other[name] == pytest.approx(line[name], rel=3e-2), (name, line["step"])


def test_an_export_runs_without_torch_and_finds_the_same(trained, tmp_path):
    folder = tmp_path / "exported"
    assert main(["export", str(trained), str(folder), "--format", "onnx"]) == 0
    texts = [f"a {color} square" for color in COLORS]
    draw_picture("green", 7).save(tmp_path / "green.png")
    lines = run_example(folder, str(tmp_path / "green.png"), *texts).splitlines()
    assert max(lines, key=lambda line: float(line.split()[0])).endswith("a green square")
