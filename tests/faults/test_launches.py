"""Runs that are launched wrongly, twice, or with another number of processes."""

import json
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.processes import TWO_PROCESSES, fail, finish, kill, start, wait_for
from tests.support.runs import output_of, read_log, train, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]


@pytest.fixture(scope="module")
def running(tmp_path_factory, color_dataset, linear_config):
    """The recipe of a run that goes on until the tests have ended."""
    folder = tmp_path_factory.mktemp("running")
    recipe = write_recipe(folder, color_dataset, linear_config, max_steps=100_000)
    process = start(recipe)
    wait_for(output_of(recipe) / "checkpoints" / "step-*", process)
    yield recipe
    kill(process)


@pytest.mark.parametrize("option", ["output_dir", "checkpoint_dir"])
def test_two_runs_do_not_write_to_one_folder(running, option, tmp_path):
    arguments = ["--overwrite_output_dir", "true"]
    if option == "checkpoint_dir":
        checkpoints = str(output_of(running) / "checkpoints")
        other = str(tmp_path / "other")
        arguments += ["--output_dir", other, "--checkpoint_dir", checkpoints]
    message = fail(start(running, *arguments)).splitlines()[-1]
    assert message.startswith("error: another run writes to")
    assert message.endswith(option)


def test_two_processes_do_not_replace_a_run_either(running):
    assert "which a new run would replace" in fail(start(running, launch=TWO_PROCESSES))


@pytest.mark.parametrize(
    ("launch", "sentence"),
    [
        (
            ("--cpu", "--num_processes", "2"),
            "several processes were requested, but Accelerate's CPU launcher started",
        ),
        (
            ("--use_fsdp", "--num_processes", "2", "--main_process_port", "0"),
            "error: FSDP needs GPUs",
        ),
    ],
    ids=["one process", "no sharding"],
)
def test_a_launch_that_would_train_otherwise_than_asked_is_rejected(
    launch, sentence, tmp_path, color_dataset, linear_config
):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=2)
    assert sentence in fail(start(recipe, launch=launch))


@pytest.fixture(scope="module")
def trained_by_two(tmp_path_factory, color_dataset, linear_config) -> Path:
    """The recipe of a run of two processes, with checkpoints at steps 15 and 30."""
    recipe = write_recipe(
        tmp_path_factory.mktemp("two"),
        color_dataset,
        linear_config,
        per_device_train_batch_size=8,
        view_loss_weight=0,
        max_steps=30,
        save_steps=15,
        save_total_limit=2,
        eval_steps=0,
        logging_steps=1,
        bf16=False,
        # Each process drops its own.
        vision_fields={"drop_path_rate": 0.0, "hidden_dropout": 0.0},
        report_to="none",
    )
    file = REPOSITORY / "configuration" / "accelerate" / "cpu.yaml"
    finish(start(recipe, launch=("--config_file", str(file))))
    return recipe


def test_the_configuration_for_a_cpu_launches_two_processes(trained_by_two):
    saved = output_of(trained_by_two) / "checkpoints" / "step-00000015" / "progress.json"
    assert json.loads(saved.read_text())["processes"] == 2


@pytest.fixture(scope="module")
def continued(trained_by_two, tmp_path_factory) -> Path:
    """The output of one process that continues this run at step 15, with twice the batch."""
    saved = output_of(trained_by_two) / "checkpoints" / "step-00000015"
    output = tmp_path_factory.mktemp("one") / "out"
    places = ("--output_dir", str(output), "--resume_from_checkpoint", str(saved))
    train(trained_by_two, "--per_device_train_batch_size", "16", *places)
    return output


def test_another_number_of_processes_keeps_the_log(trained_by_two, continued):
    log, expected = read_log(continued), read_log(output_of(trained_by_two))
    assert [line["step"] for line in log] == list(range(1, 31))
    assert log[:15] == expected[:15]


def test_another_number_of_processes_has_the_same_next_batch(trained_by_two, continued):
    losses, expected = (
        [line["loss"] for line in read_log(folder)]
        for folder in (continued, output_of(trained_by_two))
    )
    assert losses[15] == pytest.approx(expected[15], rel=1e-3)
    assert losses[15] != pytest.approx(expected[14], rel=1e-2)
