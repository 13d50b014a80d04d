"""What a resumed run takes from its checkpoint, and what it says of changes since."""

import json
import logging
import shutil

import pytest
import torch
from datasets import load_dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer

from modeling_clip_vit.cli import main
from modeling_clip_vit.training.arguments import TrainArguments
from modeling_clip_vit.training.checkpoints import CheckpointError
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.trainer import Trainer, build_trainer
from tests.support.runs import write_recipe

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

FEW = {"max_steps": 2, "save_steps": 1, "evaluations": []}
RESUME = ("--resume_from_checkpoint", "latest")


@pytest.fixture
def data(tmp_path, color_dataset):
    """A copy of the squares that may be changed."""
    return shutil.copytree(color_dataset, tmp_path / "data")


def run(recipe, *arguments: str):
    """Train here."""
    assert main(["train", "--config", str(recipe), "--report_to", "none", *arguments]) == 0


def build(recipe, *arguments: str) -> Trainer:
    """A run that has not begun."""
    return build_trainer(parse_arguments(["--config", str(recipe), *arguments]))


def test_a_tokenizer_stays_that_of_the_checkpoint_where_rows_were_added(
    tmp_path, data, linear_config, caplog
):
    recipe = write_recipe(tmp_path, data, linear_config, **FEW)
    run(recipe)
    before = AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab()
    path = next(data.glob("train-*"))
    rows = load_dataset("parquet", data_files=str(path), split="train")
    more = rows.select(range(4)).map(lambda row: {"caption_en": "zebras quickly jumping " * 3})
    from datasets import concatenate_datasets

    concatenate_datasets([rows, more]).to_parquet(path)
    with caplog.at_level(logging.WARNING):
        run(recipe, *RESUME, "--max_steps", "3")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == before
    assert "the training split has 20 rows, and had 16" in caplog.text


def test_changed_values_are_taken_and_said(tmp_path, data, linear_config, caplog):
    fields = {**FEW, "lr_scheduler_type": "constant", "warmup_ratio": 0}
    recipe = write_recipe(tmp_path, data, linear_config, **fields)
    run(recipe)
    changed = ["--learning_rate", "0.5", "--weight_decay", "0.25", "--max_steps", "5"]
    with caplog.at_level(logging.WARNING):
        training = build(recipe, *RESUME, *changed)
    rates = {group["lr"] for group in training.optimizer.param_groups}
    decays = {group["weight_decay"] for group in training.optimizer.param_groups}
    assert rates == {0.5, 0.02}  # the second is Muon's
    assert decays == {0.25, 0.0}
    assert training.scheduler.get_last_lr().count(0.5) >= 1
    assert training.progress.step == 2
    assert "learning_rate 0.001 → 0.5, weight_decay 0.05 → 0.25" in caplog.text


def test_a_schedule_goes_on_at_its_place(tmp_path, data, linear_config):
    recipe = write_recipe(tmp_path, data, linear_config, **{**FEW, "max_steps": 6})
    whole = build(recipe)
    rates = []
    for _ in range(6):
        rates.append(whole.scheduler.get_last_lr())
        whole.optimizer.step()
        whole.scheduler.step()
    run(recipe)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000006", ignore_errors=True)
    run(recipe, "--save_total_limit", "9", "--overwrite_output_dir", "true")
    for step in range(1, 6):
        path = tmp_path / "out" / "checkpoints" / f"step-{step:08d}"
        resumed = build(recipe, "--resume_from_checkpoint", str(path))
        assert resumed.scheduler.get_last_lr() == rates[step], step


def test_columns_that_were_found_stay_found(tmp_path, data, linear_config):
    fields = {**FEW, "caption_columns": [], "tags_columns": {}, "caption_sampling": "one"}
    recipe = write_recipe(tmp_path, data, linear_config, **fields)
    run(recipe)
    path = next(data.glob("train-*"))
    rows = load_dataset("parquet", data_files=str(path), split="train")
    rows.add_column("caption", ["something else"] * len(rows)).to_parquet(path)
    training = build(recipe, *RESUME, "--max_steps", "3")
    assert training.args.captions.caption_columns == ["caption_en", "caption_zh"]


def test_a_run_that_was_done_only_writes_its_results_again(tmp_path, data, linear_config):
    recipe = write_recipe(tmp_path, data, linear_config, **FEW)
    run(recipe)
    weights = load_file(tmp_path / "out" / "model.safetensors")
    (tmp_path / "out" / "model.safetensors").unlink()
    run(recipe, *RESUME)
    again = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(again[name], value) for name, value in weights.items())
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert metrics["steps"] == 2


def test_a_recipe_is_plain_values():
    """As a checkpoint's progress.json keeps it."""
    fields = TrainArguments().to_flat_dict()
    assert json.loads(json.dumps(fields)) == fields


def test_auto_starts_a_run_where_there_is_no_checkpoint(tmp_path, data, linear_config):
    recipe = write_recipe(tmp_path, data, linear_config, **FEW)
    assert build(recipe, "--resume_from_checkpoint", "auto").progress.step == 0


def test_auto_goes_on_where_there_is_a_checkpoint(tmp_path, data, linear_config):
    recipe = write_recipe(tmp_path, data, linear_config, **FEW)
    run(recipe)
    resumed = build(recipe, "--resume_from_checkpoint", "auto", "--max_steps", "3")
    assert resumed.progress.step == 2


def test_auto_does_not_start_anew_where_all_checkpoints_are_damaged(tmp_path, data, linear_config):
    recipe = write_recipe(tmp_path, data, linear_config, **FEW)
    run(recipe)
    for path in (tmp_path / "out" / "checkpoints").glob("step-*/model.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match="it is damaged"):
        build(recipe, "--resume_from_checkpoint", "auto")


#: Two passes over 16 images, in batches of 4, of which the first half is done.
PASSES = {"max_steps": 0, "num_train_epochs": 2, "per_device_train_batch_size": 4}
PASSES |= {"images_per_concept": 1, "view_loss_weight": 0, "save_steps": 1, "evaluations": []}
HALF = "step-00000004"


@pytest.fixture
def half(tmp_path, data, linear_config):
    """The recipe of a run, and its checkpoint after half of its updates."""
    recipe = write_recipe(tmp_path, data, linear_config, **PASSES)
    run(recipe, "--save_total_limit", "9")
    return recipe, str(tmp_path / "out" / "checkpoints" / HALF)


@pytest.mark.parametrize("batch_size", [2, 8])
def test_a_run_of_passes_is_as_long_with_another_batch_size(half, batch_size):
    recipe, path = half
    options = ("--per_device_train_batch_size", str(batch_size), "--resume_from_checkpoint", path)
    resumed = build(recipe, *options)
    assert resumed.progress.step * batch_size == 16
    resumed.fit()
    assert resumed.progress.images == 32


@pytest.mark.parametrize("batch_size", [2, 8])
def test_the_learning_rate_goes_on_where_as_many_images_were_seen(half, batch_size):
    recipe, path = half
    same, other = (
        build(recipe, "--resume_from_checkpoint", path, *options)
        for options in ((), ("--per_device_train_batch_size", str(batch_size)))
    )
    rates = [training.scheduler.get_last_lr()[0] for training in (same, other)]
    assert rates[1] == pytest.approx(rates[0], rel=0.15)


def test_a_batch_of_another_size_is_said(half, caplog):
    recipe, path = half
    with caplog.at_level(logging.WARNING):
        build(recipe, "--per_device_train_batch_size", "8", "--resume_from_checkpoint", path)
    assert "an update takes 8 images now, and took 4: update 4 counts as 2 of 4" in caplog.text
