"""DeepSpeed's ZeRO trains as one process does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from modeling_clip_vit.cli import main
from modeling_clip_vit.training.checkpoints import CheckpointError
from modeling_clip_vit.training.deepspeed import check_zero_checkpoint
from tests.support import REPOSITORY
from tests.support.runs import train, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

PROGRAM = ("--module", "tests.support.programs.check_zero")
#: What is trained, by its stage and its fields.
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


@pytest.fixture
def recipes(tmp_path, color_dataset, linear_config) -> dict[str, Path]:
    """A recipe a run, without dropout or augmentation, of which processes have their own."""
    config = json.loads((linear_config / "config.json").read_text())
    config["vision_config"] |= {"drop_path_rate": 0.0, "hidden_dropout": 0.0}
    for tower in ("vision_config", "text_config"):
        config[tower]["attention_k_bias"] = (
            False  # a softmax does not see it: its gradient is noise
        )
    config |= {"logit_scale_init_value": 0.0, "logit_scale_max": 1.01}  # it is soon held there
    (tmp_path / "config.json").write_text(json.dumps(config))
    common = {"rotation": 0, "erase_probability": 0.0, "tag_probability": 0.0, "bf16": False}
    common |= {"optim": "adamw", "max_steps": 30, "per_device_train_batch_size": 8}
    common |= {"save_steps": 10, "save_total_limit": 3, "eval_steps": 0, "logging_steps": 1}
    common |= {"report_to": "none", "lr_scheduler_type": "constant"}
    made = {}
    for name, (_, fields) in RUNS.items():
        folder = tmp_path / name
        folder.mkdir()
        made[name] = write_recipe(folder, color_dataset, tmp_path, **(common | fields))
    return made


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


def test_two_processes_that_share_the_optimiser_train_as_one(recipes, tmp_path):
    pytest.importorskip("deepspeed")
    words = []
    for name, (stage, _) in RUNS.items():
        two = str(tmp_path / name / "two")
        batch = ["--per_device_train_batch_size", "4", "--output_dir"]
        words += ["--", str(stage), str(recipes[name]), *batch, two]
        again = str(tmp_path / name / "again")
        resume = ["--resume_from_checkpoint", f"{two}/checkpoints/step-00000020"]
        words += ["--", str(stage), str(recipes[name]), *batch, again, *resume]
    done = launch(*words)
    assert done.returncode == 0, done.stderr[-4000:]
    for name, recipe in recipes.items():
        AcceleratorState._reset_state(reset_partial_state=True)
        train(recipe)
        logs, weights = [], []
        for folder in ("out", "two", "again"):
            place = tmp_path / name / folder
            lines = (json.loads(line) for line in (place / "training_log.jsonl").open())
            logs.append([line for line in lines if "loss" in line])
            weights.append(load_file(place / "model.safetensors"))
        whole, two, again = weights
        tolerance = 0.02 if name == "bf16" else 5e-5
        for key, value in whole.items():
            assert float((two[key] - value).abs().max()) <= tolerance, (name, key)
            assert torch.equal(again[key], two[key]), (name, key)
        assert float(two["similarity.logit_scale"].exp()) == pytest.approx(1.01, abs=2e-4)
        for line, expected in zip(logs[1], logs[0], strict=True):
            assert line["gradient_norm"] == pytest.approx(
                expected["gradient_norm"], rel=0.5 if name == "bf16" else 1e-3
            )
            assert line["skipped_updates"] == expected["skipped_updates"]
        assert (logs[0][-1]["skipped_updates"] > 0) == (name == "guard")


@pytest.mark.parametrize(
    ("arguments", "environment", "told"),
    [
        (["--optim", "muon"], {}, "optim='muon' is not allowed with DeepSpeed"),
        ([], {"DEEPSPEED_ZERO_STAGE": "3"}, "zero_stage=3 is not allowed with DeepSpeed"),
        ([], {"DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, "offload_optimizer_device=cpu is not"),
    ],
)
def test_what_deepspeed_cannot_do_here_is_refused(
    recipes, capsys, monkeypatch, arguments, environment, told
):
    for name, value in {"USE_DEEPSPEED": "true", **environment}.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert main(["train", "--config", str(recipes["plain"]), *arguments]) == 1
    assert told in capsys.readouterr().err.splitlines()[-1]


def test_a_checkpoint_that_these_processes_cannot_share_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="it was saved without DeepSpeed"):
        check_zero_checkpoint(tmp_path, 2, 2)
    (tmp_path / "pytorch_model").mkdir()
    (tmp_path / "pytorch_model" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").touch()
    check_zero_checkpoint(tmp_path, 2, 2)
    with pytest.raises(CheckpointError, match=r"parts of 2 processes .* launch with --num_proc"):
        check_zero_checkpoint(tmp_path, 2, 4)
