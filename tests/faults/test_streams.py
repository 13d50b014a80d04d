"""Streams with a broken shard, under kills and in processes with unequal parts."""

import json
import tarfile
from pathlib import Path

import pytest

from tests.support.processes import (
    TWO_PROCESSES,
    fail,
    finish,
    kill_second_rank,
    start,
    start_elastic,
    wait_for,
)
from tests.support.runs import (
    assert_same_weights,
    kill_after,
    output_of,
    train,
    write_recipe,
    write_recipes,
)
from tests.support.stream_files import write_square_tars, write_tar

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

#: What a recipe for tars has otherwise than one for the squares in Parquet.
STREAM = {
    "evaluations": [],
    "concept_column": None,
    "images_per_concept": 1,
    "image_column": "png",
    "caption_columns": ["txt"],
    "caption_sampling": "one",
    "tags_columns": {},
    "view_loss_weight": 0,
}


@pytest.fixture(scope="module")
def streams(tmp_path_factory, linear_config) -> tuple[Path, Path]:
    """Two recipes for the same stream of four tars, one of them cut off in the middle."""
    folder = tmp_path_factory.mktemp("streams")
    write_square_tars(folder, shards=4)
    whole = (folder / "3.tar").read_bytes()
    (folder / "3.tar").write_bytes(whole[: len(whole) // 2])
    fields = {
        **STREAM,
        "stream_sources": [str(folder / "*.tar")],
        "samples_per_epoch": 24,
        "shuffle_buffer_size": 8,
        "per_device_train_batch_size": 8,
        "max_bad_sample_ratio": 0.5,
        "max_steps": 60,
    }
    whole, killed = write_recipes(folder, ("whole", "killed"), folder, linear_config, **fields)
    return whole, killed


@pytest.fixture(scope="module")
def last_line(streams) -> dict:
    """The last line of the log of the first, trained to its end."""
    return train(streams[0])


def test_a_run_learns_from_a_stream_with_a_shard_that_is_cut_off(last_line):
    assert last_line["accuracy"] >= 0.3  # guessing finds one in eight


def test_a_killed_run_on_a_stream_resumes_to_the_same_weights(streams, last_line):
    whole, killed = streams
    kill_after(killed, "step-*")
    train(killed, "--resume_from_checkpoint", "latest")
    assert_same_weights(output_of(killed), output_of(whole))


def shorten(tar: Path, samples: int):
    """Keep the first samples of a tar, which are of two files each."""
    with tarfile.open(tar) as opened:
        members = opened.getmembers()[: 2 * samples]
        files = {member.name: opened.extractfile(member).read() for member in members}
    write_tar(tar, files)


def test_processes_with_unequal_parts_of_a_stream_train_together(tmp_path, linear_config):
    write_square_tars(tmp_path, shards=2)
    shorten(tmp_path / "1.tar", 6)
    sources = [str(tmp_path / "*.tar")]
    fields = {**STREAM, "stream_sources": sources, "max_steps": 6, "save_steps": 0}
    # A pass is two batches for one process, and one for the other.
    recipe = write_recipe(
        tmp_path, tmp_path, linear_config, **fields, per_device_train_batch_size=4
    )
    finish(start(recipe, "--report_to", "none", launch=TWO_PROCESSES))
    assert json.loads((output_of(recipe) / "metrics.json").read_text())["steps"] == 6


def test_a_stream_without_a_batch_for_every_process_is_rejected(tmp_path, linear_config):
    write_square_tars(tmp_path, shards=1)
    shorten(tmp_path / "0.tar", 1)
    fields = {**STREAM, "stream_sources": [str(tmp_path / "0.tar")], "max_steps": 6}
    recipe = write_recipe(
        tmp_path, tmp_path, linear_config, **fields, per_device_train_batch_size=2
    )
    assert "gave no batch for every process" in fail(start(recipe, launch=TWO_PROCESSES))


def write_stream_recipe(folder, linear_config, **fields):
    """A recipe for four tars of squares, in batches of 4."""
    write_square_tars(folder, shards=4)
    sources = {"stream_sources": [str(folder / "*.tar")], "per_device_train_batch_size": 4}
    return write_recipe(folder, folder, linear_config, **STREAM, **sources, **fields)


def test_a_run_on_a_stream_goes_on_in_one_process_where_two_stopped(tmp_path, linear_config):
    recipe = write_stream_recipe(
        tmp_path, linear_config, samples_per_epoch=96, lr_scheduler_type="constant", save_steps=2
    )
    finish(start(recipe, "--max_steps", "2", launch=TWO_PROCESSES))
    train(recipe, "--max_steps", "6", "--resume_from_checkpoint", "latest")
    newest = max((output_of(recipe) / "checkpoints").glob("step-*"))
    place = json.loads((newest / "reader_0.json").read_text())
    assert place["epoch"] == 0
    assert place["remainder"]["samples"] == 2 * 8
    assert place["workers"][0]["batches"] == 4


def test_an_elastic_run_on_a_stream_counts_every_batch_once(tmp_path, linear_config):
    recipe = write_stream_recipe(
        *(tmp_path, linear_config),
        samples_per_epoch=640,
        save_steps=3,
        max_steps=60,
        report_to="none",
    )
    job = start_elastic(recipe, "--resume_from_checkpoint", "auto", max_restarts=1)
    wait_for(output_of(recipe) / "checkpoints" / "step-*", job)
    kill_second_rank(job)
    assert "exitcode: -9" in finish(job)
    last = output_of(recipe) / "checkpoints" / "step-00000060"
    places = [json.loads((last / f"reader_{rank}.json").read_text()) for rank in (0, 1)]
    assert [place["epoch"] for place in places] == [0, 0]
    assert [place["workers"][0]["batches"] for place in places] == [60, 60]
