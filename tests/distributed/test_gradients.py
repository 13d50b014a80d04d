"""Several processes train as one would."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
#: Accelerate's launcher for one machine. `--multi_gpu` is what it calls any number of processes;
#: `Accelerator(cpu=True)` then joins them without a GPU.
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_every_loss_and_strategy_gives_the_gradients_of_one_process(processes):
    script = str(FOLDER / "check_gradients.py")
    command = [*LAUNCH, "--num_processes", str(processes), "--main_process_port", "0", script]
    done = subprocess.run(
        [*command, str(processes)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    equal = [line for line in done.stdout.splitlines() if line.startswith("equal:")]
    # 7 losses, tiled or not, cached or not, under DDP and FSDP2; and batch norm.
    assert len(equal) == 7 * 2 * 2 * 2 + 1, equal
