"""Weights that FSDP2 shards over processes."""

import os
import subprocess
import sys

import pytest

from modeling_clip_vit.training.arguments import OptimizerOptions
from modeling_clip_vit.training.sharding import check_sharded
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY

LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_machines", "1"),
    *("--num_processes", "2", "--main_process_port", "0"),
    *("--module", "tests.support.programs.check_sharded_precision"),
)


@pytest.mark.slow
def test_in_bfloat16_scale_embeddings_and_sums_of_gradients_stay_in_float32():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        LAUNCH, capture_output=True, text=True, timeout=300, env=environment, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("right: ") == 2 * 5, done.stdout


def test_an_optimizer_that_cannot_shard_is_refused():
    with pytest.raises(UserError, match=r"adafactor.*with FSDP2.*use 'adamw' or 'muon'"):
        check_sharded(OptimizerOptions(optim="adafactor"))
