"""Several processes train as one would."""

import os
import socket
import subprocess
import sys

import pytest

from tests.support import REPOSITORY

#: Accelerate's launcher. `--multi_gpu` is what it calls any number of processes;
#: `Accelerator(cpu=True)` then joins them without a GPU.
LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"),
    *("--mixed_precision", "no", "--dynamo_backend", "no"),
]


PROGRAM = ("--module", "tests.support.programs.check_gradients")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def count_equal(output: str) -> int:
    return sum(line.startswith("equal:") for line in output.splitlines())


#: 8 losses, tiled or not, cached or not, under DDP and FSDP2; two in a ring, cached or not; and
#: batch norm.
COMBINATIONS = 8 * 2 * 2 * 2 + 2 * 2 + 1


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 4])
def test_every_loss_and_strategy_gives_the_gradients_of_one_process(processes):
    command = [*LAUNCH, "--num_machines", "1", "--num_processes", str(processes)]
    done = subprocess.run(
        [*command, "--main_process_port", "0", *PROGRAM, str(processes)],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert count_equal(done.stdout) == COMBINATIONS, done.stdout


@pytest.mark.slow
def test_texts_meet_the_images_of_all_processes_exactly_early_and_in_the_memory_of_a_share():
    """Texts that are gathered take two more shares, with their gradients, of each process."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.programs.check_exchange"],
        capture_output=True,
        text=True,
        timeout=300,
        env=ENVIRONMENT,
        cwd=REPOSITORY,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    lines = [line.split() for line in done.stdout.splitlines()]
    # 8 losses, tiled or not, on 2, 3 and 4 processes.
    assert sum(words[0] == "ring:" for words in lines) == 8 * 2 * 3
    assert [int(words[1]) for words in lines if words[0] == "gathered:"] == [2, 3, 4]
    assert [int(words[1]) for words in lines if words[0] == "early:"] == [2, 4]
    assert ["ddp:", "2"] in lines
    peaks = {(w[2], int(w[1])): float(w[3]) for w in lines if w[0] == "peak:"}
    growth = {name: peaks[name, 8] - peaks[name, 4] for name, count in peaks if count == 4}
    assert growth == {
        "clip-ring": pytest.approx(0, abs=0.5),
        "siglip-ring": pytest.approx(0, abs=0.5),
        "clip-gather": pytest.approx(8, abs=0.5),
    }


@pytest.mark.slow
def test_two_machines_train_as_one():
    """Two launchers that know each other by an address, as on two machines."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    place = ["--main_process_ip", "127.0.0.1", "--main_process_port", str(port)]
    machines = [
        subprocess.Popen(
            [
                *(*LAUNCH, "--num_machines", "2", "--num_processes", "2"),
                *("--machine_rank", str(rank), *place, *PROGRAM, "2"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=ENVIRONMENT,
            cwd=REPOSITORY,
        )
        for rank in range(2)
    ]
    outputs = [machine.communicate(timeout=300) for machine in machines]
    assert [machine.returncode for machine in machines] == [0, 0], outputs
    assert count_equal(outputs[0][0]) == COMBINATIONS
