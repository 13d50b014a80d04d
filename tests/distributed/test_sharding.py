"""Weights that FSDP2 shards over processes."""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env
from safetensors.torch import load_file

from modeling_clip_vit.training.checkpoint_reader import load_checkpoint
from modeling_clip_vit.training.checkpoints import CheckpointError, check_whole
from modeling_clip_vit.training.options import OptimizerOptions
from modeling_clip_vit.training.sharding import check_sharded
from modeling_clip_vit.training.states import model_tensors, optimizer_tensors
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY
from tests.support.models import small_model
from tests.support.trainers import build, make_batch


def launch(program: str, processes: int, *arguments: str) -> str:
    """What the processes of a program print."""
    command = (
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_machines", "1"),
        *("--num_processes", str(processes), "--main_process_port", "0"),
        *("--module", f"tests.support.programs.{program}", *arguments),
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=REPOSITORY
    )
    return done.stdout + done.stderr[-4000:]


#: What the program says once it has been so in both processes.
RIGHT = (
    *("scale and bias", "embeddings", "blocks compute in bfloat16"),
    *("gradients are summed in float32", "the scale learns"),
    *("embeddings of the sharded model", "metrics of the sharded model"),
    "it trains on with its own weights",
    "each process writes its half of a checkpoint",
    *("a checkpoint has the weights of its update", "a resumed run goes on as the first"),
)


@pytest.fixture(scope="module")
def launched(tmp_path_factory) -> tuple[Path, str]:
    """The folder of two processes that share a model, and what they print."""
    folder = tmp_path_factory.mktemp("sharded")
    return folder, launch("check_sharding", 2, str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("claim", RIGHT)
def test_two_processes_share_a_model(launched, claim):
    assert f"right: {claim}" in launched[1].splitlines(), launched[1]


@pytest.mark.slow
def test_one_process_goes_on_from_the_checkpoint_of_two(launched, tmp_path, fresh_accelerate):
    folder, _ = launched
    trainer = build(tmp_path, small_model(), ema_decay=0.5)
    path = folder / "out" / "checkpoints" / "step-00000004"
    trainer.load(path, check_whole(path))
    model, optimizer = trainer.unwrapped(), trainer.scheduler.optimizer
    for kind, tensors in (
        ("model", model_tensors(model)),
        ("optimizer", optimizer_tensors(optimizer, model)),
        ("average", trainer.average.tensors()),
    ):
        expected = load_file(folder / f"expected_{kind}.safetensors")
        for name, tensor in tensors.items():
            assert torch.equal(tensor, expected[name]), name
    trainer.set_training_mode()
    trainer.train_step(make_batch())


@pytest.mark.slow
def test_what_an_older_release_gathered_needs_fsdp2(launched, tmp_path, fresh_accelerate):
    trainer = build(tmp_path, small_model())
    model, optimizer = trainer.unwrapped(), trainer.scheduler.optimizer
    with pytest.raises(CheckpointError, match="an older release saved it with FSDP2, and this run"):
        load_checkpoint(trainer.accelerator, launched[0] / "gathered", model, optimizer)


#: Ways to share a model out that the program compares: each is read in each.
WAYS = ("whole", "over 2", "over 4", "over 2 by 2")


@pytest.mark.slow
def test_states_are_read_by_processes_that_share_a_model_in_another_way():
    output = launch("check_resharding", 4)
    said = {line for line in output.splitlines() if line.startswith("equal: ")}
    assert said == {f"equal: {one}, then {other}" for one, other in product(WAYS, WAYS)}, output


@pytest.mark.slow
def test_four_processes_share_a_model_two_by_two():
    """What each pair shards and both pairs average trains as one process does."""
    output = launch("check_hybrid_sharding", 4)
    assert "right: sharded in pairs, and trained as by one process" in output.splitlines(), output


def test_the_hybrid_launch_shards_within_a_machine():
    config = str(REPOSITORY / "configuration" / "accelerate" / "hsdp_two_nodes.yaml")
    args = launch_command_parser().parse_args(["--config_file", config, "train.py"])
    args, *_ = _validate_launch_command(args)
    environment = prepare_multi_gpu_env(args)
    assert environment["FSDP_VERSION"] == "2"
    assert environment["ACCELERATE_USE_PARALLELISM_CONFIG"] == "true"
    assert environment["PARALLELISM_CONFIG_DP_REPLICATE_SIZE"] == "2"
    assert environment["PARALLELISM_CONFIG_DP_SHARD_SIZE"] == "8"


def fsdp2(is_lean: bool) -> FullyShardedDataParallelPlugin:
    """Accelerate's settings of FSDP2."""
    return FullyShardedDataParallelPlugin(fsdp_version=2, cpu_ram_efficient_loading=is_lean)


def test_an_optimizer_that_cannot_shard_is_refused():
    with pytest.raises(UserError, match=r"adafactor.*with FSDP2.*use 'adamw' or 'muon'"):
        check_sharded(fsdp2(False), OptimizerOptions(optim="adafactor"), small_model())


def test_buffers_that_would_not_be_sent_are_refused():
    model = small_model(vision={"norm_type": "batchnorm"})
    check_sharded(fsdp2(False), OptimizerOptions(), model)
    with pytest.raises(UserError, match=r"running_mean.*set it to false"):
        check_sharded(fsdp2(True), OptimizerOptions(), model)


@pytest.fixture(scope="module")
def started(tmp_path_factory) -> str:
    """What two processes print of whose new model the first has the weights."""
    return launch("check_lean_start", 2, str(tmp_path_factory.mktemp("started")))


@pytest.mark.slow
@pytest.mark.parametrize(
    "claim",
    [
        "the second process has no weights of a new model",
        "both have the weights of the first",
        "the optimiser updates every weight",
        "both have those of a pretrained model with a new head",
        "both have those of a frozen tower",
    ],
)
def test_the_first_process_has_the_weights_of_a_new_model(started, claim):
    assert f"right: {claim}" in started.splitlines(), started
