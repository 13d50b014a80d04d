"""What the engine can be told, in whole runs: each option trains, and a killed run goes on."""

import json

import pytest

from modeling_clip_vit.cli import main
from tests.support.runs import train, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]


OPTIONS = {
    "clip": {"loss": "clip", "images_per_concept": 1, "label_smoothing": 0.1},
    "hard negatives": {"loss": "hard_negative", "images_per_concept": 1},
    "siglip": {"loss": "siglip", "view_loss_weight": 0},
    "matryoshka": {"matryoshka_dims": [4, 16]},
    "gradient cache": {"gradient_cache_batch_size": 5},
    "adafactor": {"optim": "adafactor", "learning_rate": 3e-3},
    "warmup, stable, decay": {"lr_scheduler_type": "warmup_stable_decay"},
    "average": {"ema_decay": 0.9},
    "accumulation": {"gradient_accumulation_steps": 2, "max_grad_spike": 5},
    "checkpointing": {"gradient_checkpointing": True},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_trains(name, tmp_path, color_dataset, linear_config):
    fields = {"view_loss_weight": 0, **OPTIONS[name]}
    if fields.get("images_per_concept") == 1:
        fields |= {"caption_sampling": "one", "per_device_train_batch_size": 8}
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, max_steps=60, save_steps=0, eval_steps=0, **fields
    )
    last = train(recipe)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())["metrics"]
    # Eight colours: guessing finds one in eight.
    assert metrics["validation/caption_en/text_to_image/R@1"] >= 0.35, (name, metrics)
    assert last["accuracy"] >= 0.4
    assert 0 <= last["data_wait"] <= 1
    assert last["memory_megabytes"] > 100
    assert last["skipped_updates"] == 0


def test_the_gradient_cache_trains_as_the_whole_batch_does(tmp_path, color_dataset, linear_config):
    config = json.loads((linear_config / "config.json").read_text())
    config["vision_config"] |= {"drop_path_rate": 0.0, "hidden_dropout": 0.0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    losses = []
    for part in ("0", "3"):
        recipe = write_recipe(
            tmp_path,
            color_dataset,
            tmp_path,
            optim="adamw",
            max_steps=8,
            save_steps=0,
            evaluations=[],
            bf16=False,
            logging_steps=1,
        )
        losses.append(train(recipe, "--gradient_cache_batch_size", part)["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_blocks_compile(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, max_steps=2, save_steps=0, eval_steps=0, bf16=False
    )
    one_block = ["--vision_fields.num_hidden_layers", "1", "--text_fields.num_hidden_layers", "1"]
    plain = train(recipe, *one_block)["loss"]
    compiled = [*one_block, "--torch_compile", "true"]
    assert train(recipe, *compiled)["loss"] == pytest.approx(plain, rel=0.2)


def test_a_student_learns_a_teachers_similarities(tmp_path, color_dataset, linear_config, capsys):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, save_steps=0, eval_steps=0)
    train(recipe)
    teacher = tmp_path / "out"
    fields = {"max_steps": 60, "view_loss_weight": 0, "save_steps": 0, "eval_steps": 0}
    student = tmp_path / "student"
    student.mkdir()
    recipe = write_recipe(student, color_dataset, linear_config, **fields)
    options = ["--teacher_name_or_path", str(teacher), "--distillation_weight", "1"]
    train(recipe, *options)  # the teacher is all it learns from
    metrics = json.loads((student / "out" / "metrics.json").read_text())["metrics"]
    assert metrics["validation/caption_en/text_to_image/R@1"] >= 0.35
    config = json.loads((linear_config / "config.json").read_text())
    config["vision_config"]["image_size"] = 16
    (tmp_path / "config.json").write_text(json.dumps(config))
    recipe = write_recipe(student, color_dataset, tmp_path, **fields)
    assert main(["train", "--config", str(recipe), *options]) == 1
    assert "made for images of 32 pixels" in capsys.readouterr().err


def test_a_run_that_diverges_stops_and_says_why(tmp_path, color_dataset, linear_config, capsys):
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, optim="adamw", save_steps=0, eval_steps=0
    )
    command = ["train", "--config", str(recipe), "--report_to", "none", "--learning_rate", "1e30"]
    assert main([*command, "--max_skipped_updates", "4", "--warmup_ratio", "0"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: stopped at update")
    assert "the last 4 updates were skipped" in message
