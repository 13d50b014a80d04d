"""Runs and processes that are killed, and resume."""

import os
import random
from pathlib import Path

import pytest

from tests.support.processes import (
    TWO_PROCESSES,
    finish,
    kill,
    kill_second_rank,
    outputs,
    start,
    start_elastic,
    wait_for,
    wait_until,
)
from tests.support.runs import (
    assert_same_weights,
    kill_after,
    output_of,
    train,
    write_recipes,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

#: How often a run is killed while it saves; more by `CLIP_VIT_KILLS=20 pytest tests/faults`.
KILLS = int(os.environ.get("CLIP_VIT_KILLS", "3"))

#: Files of a checkpoint that is being written, in their order, and the one that is done.
MOMENTS = (
    ".step-{}.partial/optimizer.json",
    ".step-{}.partial/average.safetensors",
    ".step-{}.partial/model.safetensors",
    ".step-{}.partial/optimizer.safetensors",
    ".step-{}.partial/progress.json",
    "step-{}/progress.json",
)

LATEST = ("--resume_from_checkpoint", "latest")


def newest(checkpoints: Path) -> int:
    """The step of the newest complete checkpoint; 0 if there is none."""
    names = [path.parent.name for path in checkpoints.glob("step-*/progress.json")]
    return int(max(names, default="step-0").removeprefix("step-"))


def test_kills_while_checkpoints_are_written_change_nothing(tmp_path, color_dataset, linear_config):
    fields = {"max_steps": 60 + 20 * KILLS, "save_steps": 1, "eval_steps": 0, "ema_decay": 0.9}
    names = ("whole", "killed")
    whole, killed = write_recipes(tmp_path, names, color_dataset, linear_config, **fields)
    train(whole, "--save_steps", "0")
    checkpoints = output_of(killed) / "checkpoints"
    moments = random.Random(0)
    resume: tuple[str, ...] = ()
    for _ in range(KILLS):
        reached = newest(checkpoints)
        moment = moments.choice(MOMENTS)
        process = start(killed, "--report_to", "none", *resume)
        wait_until(
            lambda done=reached: newest(checkpoints) > done, f"a step after {reached}", process
        )
        wait_until(
            lambda path=moment: any(checkpoints.glob(path.format("*"))),
            moment,
            process,
            interval=0.0005,
        )
        kill(process)
        resume = LATEST
    train(killed, *LATEST)
    assert_same_weights(output_of(killed), output_of(whole))


def test_a_killed_run_with_an_average_resumes_to_the_same_weights(
    tmp_path, color_dataset, linear_config
):
    fields = {"ema_decay": 0.95, "max_grad_spike": 3, "gradient_cache_batch_size": 5}
    whole, killed = write_recipes(
        tmp_path, ("whole", "killed"), color_dataset, linear_config, max_steps=80, **fields
    )
    train(whole)
    kill_after(killed, "step-*[46]0")
    train(killed, *LATEST)
    assert_same_weights(output_of(killed), output_of(whole))


END = ("--max_steps", "45", "--lr_scheduler_type", "constant")


@pytest.fixture(scope="module")
def broken_job(tmp_path_factory, color_dataset, linear_config) -> tuple[Path, str]:
    """The recipe of a job whose second process was killed, and what the job wrote to stderr."""
    [recipe] = write_recipes(
        tmp_path_factory.mktemp("broken"),
        ["job"],
        color_dataset,
        linear_config,
        per_device_train_batch_size=8,
        report_to="none",
    )
    job = start(recipe, *END[2:], "--max_steps", "100000", launch=TWO_PROCESSES)
    wait_for(output_of(recipe) / "checkpoints" / "step-*", job)
    kill_second_rank(job)
    _, errors = outputs(job)
    assert job.returncode != 0
    return recipe, errors


def test_a_process_that_dies_takes_the_job_down(broken_job):
    _, errors = broken_job
    assert "SIGKILL" in errors


@pytest.fixture(scope="module")
def whole_job(tmp_path_factory, color_dataset, linear_config) -> Path:
    """The recipe of the same job, which nothing stops."""
    [recipe] = write_recipes(
        tmp_path_factory.mktemp("unbroken"),
        ["whole"],
        color_dataset,
        linear_config,
        per_device_train_batch_size=8,
        report_to="none",
    )
    finish(start(recipe, *END, launch=TWO_PROCESSES))
    return recipe


def test_a_job_that_went_down_restarts_from_its_checkpoint(broken_job, whole_job):
    broken, _ = broken_job
    saved = min((output_of(broken) / "checkpoints").glob("step-*"))
    resume = ("--resume_from_checkpoint", str(saved))
    finish(start(broken, *END, *resume, launch=TWO_PROCESSES))
    # The processes' sums are added in an order that is not the same every time.
    assert_same_weights(output_of(broken), output_of(whole_job), tolerance=1e-6)


def test_an_elastic_job_replaces_a_process_that_dies_and_ends_as_it_would_have(
    tmp_path, color_dataset, linear_config, whole_job
):
    [recipe] = write_recipes(
        tmp_path,
        ["elastic"],
        color_dataset,
        linear_config,
        per_device_train_batch_size=8,
        report_to="none",
        save_steps=3,
    )
    auto = ("--resume_from_checkpoint", "auto")
    job = start_elastic(recipe, *END, *auto, max_restarts=1)
    wait_for(output_of(recipe) / "checkpoints" / "step-*", job)
    kill_second_rank(job)
    assert "exitcode: -9" in finish(job)
    assert_same_weights(output_of(recipe), output_of(whole_job), tolerance=1e-6)
