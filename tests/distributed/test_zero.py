"""DeepSpeed's ZeRO trains as one process does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from modeling_clip_vit.cli import main
from modeling_clip_vit.training.checkpoints import CheckpointError
from modeling_clip_vit.training.deepspeed import check_zero_checkpoint
from tests.support import REPOSITORY
from tests.support.runs import assert_same_weights, read_log, train, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

PROGRAM = ("--module", "tests.support.programs.check_zero")
#: Name of a run -> its stage and its fields.
RUNS = {
    "plain": (2, {"layer_decay": 0.9, "max_grad_norm": 0.5}),
    "stage 1": (1, {"max_grad_norm": 0}),
    "accumulation": (2, {"gradient_accumulation_steps": 2}),
    "accumulation, stage 1": (1, {"gradient_accumulation_steps": 2}),
    "gradient cache": (2, {"gradient_cache_batch_size": 3}),
    "gradient cache, stage 1": (1, {"gradient_cache_batch_size": 3}),
    "guard": (2, {"max_grad_spike": 1.01, "seed": 3}),  # skips 3 of the 30 updates
    "bf16": (2, {"bf16": True}),
    "average": (2, {"ema_decay": 0.9, "eval_steps": 7}),
}


@pytest.fixture(scope="module")
def recipes(tmp_path_factory, color_dataset, linear_config) -> dict[str, Path]:
    """A recipe of each run, without the dropout and augmentation that processes draw apart."""
    root = tmp_path_factory.mktemp("zero")
    config = json.loads((linear_config / "config.json").read_text())
    config["vision_config"] |= {"drop_path_rate": 0.0, "hidden_dropout": 0.0}
    for tower in ("vision_config", "text_config"):
        # A softmax does not depend on it: its gradient is noise.
        config[tower]["attention_k_bias"] = False
    # The scale soon reaches its maximum.
    config |= {"logit_scale_init_value": 0.0, "logit_scale_max": 1.01}
    (root / "config.json").write_text(json.dumps(config))
    common = {"rotation": 0, "erase_probability": 0.0, "tag_probability": 0.0, "bf16": False}
    common |= {"optim": "adamw", "max_steps": 30, "per_device_train_batch_size": 8}
    common |= {"save_steps": 10, "save_total_limit": 3, "eval_steps": 0, "logging_steps": 1}
    common |= {"report_to": "none", "lr_scheduler_type": "constant"}
    paths = {}
    for name, (_, fields) in RUNS.items():
        folder = root / name
        folder.mkdir()
        paths[name] = write_recipe(folder, color_dataset, root, **(common | fields))
    return paths


def launch(*words: str) -> subprocess.CompletedProcess:
    """Run check_zero in two processes."""
    file = REPOSITORY / "configuration" / "accelerate" / "deepspeed.yaml"
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(file)]
    return subprocess.run(
        [*command, "--num_processes", "2", "--main_process_port", "0", *PROGRAM, *words],
        capture_output=True,
        text=True,
        timeout=600,
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


@pytest.fixture(scope="module")
def shared(recipes) -> dict[str, Path]:
    """The folders with the output of two processes: `two`, and `again`, resumed at step 20.

    DeepSpeed takes long to start, so that all runs are of one launch.
    """
    pytest.importorskip("deepspeed")
    words = []
    for name, (stage, _) in RUNS.items():
        folder = recipes[name].parent
        batch = ["--per_device_train_batch_size", "4", "--output_dir"]
        words += ["--", str(stage), str(recipes[name]), *batch, str(folder / "two")]
        checkpoint = folder / "two" / "checkpoints" / "step-00000020"
        resume = [str(folder / "again"), "--resume_from_checkpoint", str(checkpoint)]
        words += ["--", str(stage), str(recipes[name]), *batch, *resume]
    done = launch(*words)
    assert done.returncode == 0, done.stderr[-4000:]
    return {name: recipe.parent for name, recipe in recipes.items()}


@pytest.fixture(scope="module")
def alone(recipes) -> Callable[[str], Path]:
    """Trains a run in one process, once; returns the output folder."""

    def make(name: str) -> Path:
        folder = recipes[name].parent / "out"
        if not folder.exists():
            train(recipes[name])
        return folder

    return make


@pytest.mark.parametrize("name", RUNS)
def test_two_processes_train_to_the_weights_of_one(shared, alone, name):
    tolerance = 0.02 if name == "bf16" else 5e-5
    assert_same_weights(shared[name] / "two", alone(name), tolerance)


@pytest.mark.parametrize("name", RUNS)
def test_a_resumed_run_has_the_weights_of_an_uninterrupted_one(shared, name):
    assert_same_weights(shared[name] / "again", shared[name] / "two")


@pytest.mark.parametrize("name", RUNS)
def test_the_scale_is_held_at_its_maximum(shared, name):
    weights = load_file(shared[name] / "two" / "model.safetensors")
    assert float(weights["similarity.logit_scale"].exp()) == pytest.approx(1.01, abs=2e-4)


@pytest.mark.parametrize("name", RUNS)
def test_gradients_are_as_long_as_those_of_one_process(shared, alone, name):
    norms, expected = (
        [line["gradient_norm"] for line in read_log(folder)]
        for folder in (shared[name] / "two", alone(name))
    )
    assert norms == pytest.approx(expected, rel=0.5 if name == "bf16" else 1e-3)


@pytest.mark.parametrize("name", RUNS)
def test_the_updates_that_one_process_skips_are_skipped(shared, alone, name):
    skipped, expected = (
        [line["skipped_updates"] for line in read_log(folder)]
        for folder in (shared[name] / "two", alone(name))
    )
    assert skipped == expected
    assert (skipped[-1] > 0) == (name == "guard")


@pytest.mark.parametrize(
    ("arguments", "environment", "sentence"),
    [
        (["--optim", "muon"], {}, "optim='muon' is not allowed with DeepSpeed"),
        ([], {"DEEPSPEED_ZERO_STAGE": "3"}, "zero_stage=3 is not allowed with DeepSpeed"),
        ([], {"DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "offload_optimizer_device=cpu is not"),
    ],
    ids=["optimiser", "stage", "offloading"],
)
def test_what_is_not_supported_with_deepspeed_is_rejected(
    recipes, capsys, monkeypatch, arguments, environment, sentence
):
    for name, value in {"USE_DEEPSPEED": "true", **environment}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert main(["train", "--config", str(recipes["plain"]), *arguments]) == 1
    assert sentence in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_without_deepspeed_is_rejected(tmp_path):
    with pytest.raises(CheckpointError, match="it was saved without DeepSpeed"):
        check_zero_checkpoint(tmp_path, 2, 2)


@pytest.fixture
def of_two_processes(tmp_path) -> Path:
    """A checkpoint that two processes share."""
    (tmp_path / "pytorch_model").mkdir()
    (tmp_path / "pytorch_model" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    return tmp_path


def test_a_checkpoint_of_as_many_processes_is_accepted(of_two_processes):
    check_zero_checkpoint(of_two_processes, 2, 2)


def test_a_checkpoint_of_fewer_processes_is_rejected(of_two_processes):
    with pytest.raises(CheckpointError, match=r"parts of 2 processes .* launch with --num_proc"):
        check_zero_checkpoint(of_two_processes, 2, 4)
