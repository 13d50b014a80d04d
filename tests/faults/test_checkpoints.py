"""Checkpoints that are damaged, stale, or in an object store."""

import shutil
from pathlib import Path

import pytest

from tests.support.runs import assert_same_weights, output_of, read_log, train, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

FIELDS = {"save_steps": 10, "save_total_limit": 2, "eval_steps": 0}
LATEST = ("--resume_from_checkpoint", "latest")


@pytest.fixture(scope="module")
def finished(tmp_path_factory, color_dataset, linear_config) -> Path:
    """The output of a run of 25 steps, with checkpoints at 20 and 25."""
    folder = tmp_path_factory.mktemp("finished")
    recipe = write_recipe(folder, color_dataset, linear_config, max_steps=25, **FIELDS)
    train(recipe)
    return output_of(recipe)


@pytest.mark.parametrize("end", [b"", b"wrong"], ids=["truncated", "changed"])
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_word(
    finished, end, tmp_path, color_dataset, linear_config, caplog
):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=25, **FIELDS)
    checkpoints = output_of(recipe) / "checkpoints"
    shutil.copytree(finished / "checkpoints", checkpoints)
    weights = checkpoints / "step-00000025" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5] + end)
    train(recipe, *LATEST)
    assert "model.safetensors is not as it was written; it is damaged" in caplog.text
    assert_same_weights(output_of(recipe), finished)


def test_an_older_runs_checkpoint_of_a_later_step_is_not_taken_for_newer(
    tmp_path, color_dataset, linear_config
):
    fields = {"save_steps": 10, "eval_steps": 0}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **fields)
    checkpoints = output_of(recipe) / "checkpoints"
    train(recipe, "--max_steps", "45")
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000045"]
    train(recipe, "--max_steps", "25", "--seed", "1")
    assert [path.name for path in checkpoints.iterdir()] == ["step-00000025"]


@pytest.fixture(scope="module")
def stored(tmp_path_factory, color_dataset, linear_config, object_store) -> Path:
    """The recipe of a run of 45 steps with its checkpoints in the object store."""
    folder = tmp_path_factory.mktemp("stored")
    place = {"checkpoint_dir": "s3://bucket/run"}
    recipe = write_recipe(folder, color_dataset, linear_config, max_steps=45, **place, **FIELDS)
    train(recipe)
    return recipe


def names_in(object_store, folder: str) -> list[str]:
    return [path.rsplit("/", 1)[1] for path in object_store.ls(folder, refresh=True)]


def test_an_object_store_keeps_the_newest_checkpoints(stored, object_store):
    assert names_in(object_store, "bucket/run") == ["step-00000040", "step-00000045"]


def test_no_checkpoint_of_an_object_store_stays_on_this_machine(stored):
    assert not list((output_of(stored) / "checkpoints").glob("*"))


def test_an_upload_that_was_cut_off_does_not_count(stored, object_store, tmp_path):
    object_store.copy("bucket/run", "bucket/cut", recursive=True)
    object_store.rm("bucket/cut/step-00000045/progress.json")
    output = tmp_path / "out"
    places = ("--checkpoint_dir", "s3://bucket/cut", "--output_dir", str(output))
    train(stored, *LATEST, *places)
    assert [line["step"] for line in read_log(output)][-1] == 45
    assert_same_weights(output, output_of(stored))


def test_a_run_resumes_from_the_address_of_a_checkpoint(stored, tmp_path):
    output = tmp_path / "out"
    places = ("--checkpoint_dir", str(tmp_path / "local"), "--output_dir", str(output))
    train(stored, "--resume_from_checkpoint", "s3://bucket/run/step-00000040", *places)
    assert_same_weights(output, output_of(stored))
