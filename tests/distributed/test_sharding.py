"""Weights that FSDP2 shards over processes."""

import os
import subprocess
import sys

import pytest
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils.launch import prepare_multi_gpu_env

from modeling_clip_vit.training.options import OptimizerOptions
from modeling_clip_vit.training.sharding import check_sharded
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY


def launch(program: str, processes: int) -> str:
    """What the processes of a program print."""
    command = (
        *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_machines", "1"),
        *("--num_processes", str(processes), "--main_process_port", "0"),
        *("--module", f"tests.support.programs.{program}"),
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
    *("it trains on with its own weights", "the main process alone has the running mean"),
)


@pytest.fixture(scope="module")
def output() -> str:
    """What two processes print that share a model."""
    return launch("check_sharding", 2)


@pytest.mark.slow
@pytest.mark.parametrize("claim", RIGHT)
def test_two_processes_share_a_model(output, claim):
    assert f"right: {claim}" in output.splitlines(), output


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


def test_an_optimizer_that_cannot_shard_is_refused():
    with pytest.raises(UserError, match=r"adafactor.*with FSDP2.*use 'adamw' or 'muon'"):
        check_sharded(OptimizerOptions(optim="adafactor"))
