"""Whole runs with options of the engine; `test_trainer.py` compares single steps."""

import json

import pytest

from modeling_clip_vit.cli import main
from tests.support.runs import read_log, train, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]


OPTIONS = {
    "optim": "adafactor",
    "learning_rate": 3e-3,
    "lr_scheduler_type": "warmup_stable_decay",
    "gradient_accumulation_steps": 2,
    "gradient_checkpointing": True,
    "matryoshka_dims": [4, 16],
    "ema_decay": 0.9,
    "max_grad_spike": 5,
    "bf16": True,
}


@pytest.fixture(scope="module")
def run_with_options(tmp_path_factory, color_dataset, linear_config):
    """The output folder of a run of 20 updates with many options."""
    folder = tmp_path_factory.mktemp("options")
    fields = {"max_steps": 20, "logging_steps": 1, "save_steps": 0, "eval_steps": 0, **OPTIONS}
    train(write_recipe(folder, color_dataset, linear_config, **fields))
    return folder / "out"


def test_every_update_is_logged(run_with_options):
    assert [line["step"] for line in read_log(run_with_options)] == list(range(1, 21))


def test_the_learning_rate_stays_and_then_falls_to_nothing(run_with_options):
    rates = [line["learning_rate"] for line in read_log(run_with_options)]
    assert rates[1:15] == pytest.approx([3e-3] * 14)
    assert rates[-1] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("column", "least", "most"),
    [("data_wait", 0, 1), ("memory_megabytes", 100, 100_000), ("skipped_updates", 0, 0)],
)
def test_a_log_says_what_was_measured(run_with_options, column, least, most):
    assert all(least <= line[column] <= most for line in read_log(run_with_options))


def test_the_metrics_have_the_recipe(run_with_options):
    metrics = json.loads((run_with_options / "metrics.json").read_text())
    assert metrics["recipe"]["matryoshka_dims"] == OPTIONS["matryoshka_dims"]


def test_blocks_compile(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, max_steps=2, save_steps=0, eval_steps=0
    )
    one_block = ["--vision_fields.num_hidden_layers", "1", "--text_fields.num_hidden_layers", "1"]
    plain = train(recipe, *one_block)["loss"]
    compiled = [*one_block, "--torch_compile", "true"]
    assert train(recipe, *compiled)["loss"] == pytest.approx(plain, rel=0.2)


def test_a_run_that_diverges_stops_and_says_why(tmp_path, color_dataset, linear_config, capsys):
    recipe = write_recipe(
        tmp_path, color_dataset, linear_config, optim="adamw", save_steps=0, eval_steps=0
    )
    command = ["train", "--config", str(recipe), "--report_to", "none", "--learning_rate", "1e30"]
    assert main([*command, "--max_skipped_updates", "4", "--warmup_ratio", "0"]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: stopped at update")
    assert "the last 4 updates were skipped" in message
