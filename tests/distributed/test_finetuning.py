"""Fine-tuning with weights that are sharded over processes."""

import os
import subprocess
import sys

import pytest

from tests.support import REPOSITORY

LAUNCH = (
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--num_machines", "1"),
    *("--num_processes", "2", "--main_process_port", "0"),
    *("--module", "tests.support.programs.check_finetuning"),
)


@pytest.mark.slow
def test_an_adapter_and_l2_sp_under_fsdp2_are_those_of_one_process():
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        LAUNCH, capture_output=True, text=True, timeout=600, env=environment, cwd=REPOSITORY
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert done.stdout.count("equal: ") == 2 * 3, done.stdout
