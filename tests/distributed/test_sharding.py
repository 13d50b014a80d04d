"""Weights that FSDP2 shards over processes."""

import os
import subprocess
import sys

import pytest

from modeling_clip_vit.training.options import OptimizerOptions
from modeling_clip_vit.training.sharding import check_sharded
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY

LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_machines", "1"),
    *("--num_processes", "2", "--main_process_port", "0"),
    *("--module", "tests.support.programs.check_sharding"),
)


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
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        LAUNCH, capture_output=True, text=True, timeout=300, env=environment, cwd=REPOSITORY
    )
    return done.stdout + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("claim", RIGHT)
def test_two_processes_share_a_model(output, claim):
    assert f"right: {claim}" in output.splitlines(), output


def test_an_optimizer_that_cannot_shard_is_refused():
    with pytest.raises(UserError, match=r"adafactor.*with FSDP2.*use 'adamw' or 'muon'"):
        check_sharded(OptimizerOptions(optim="adafactor"))
