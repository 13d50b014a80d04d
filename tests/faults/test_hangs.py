"""Runs whose processes stop: they end, say so, and show where they were."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from tests.support import REPOSITORY
from tests.support.processes import PATIENCE, TWO_PROCESSES, fail, start, wait_for
from tests.support.runs import output_of, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]


@contextmanager
def suspended(processes: list[psutil.Process]) -> Iterator[None]:
    """Processes stand still meanwhile, and are ended after."""
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.kill()


def test_a_run_whose_reader_hangs_ends_and_shows_its_stacks(tmp_path, color_dataset, linear_config):
    fields = {"max_steps": 100_000, "save_steps": 5, "dataloader_num_workers": 1}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, hang_timeout=10, **fields)
    process = start(recipe, "--report_to", "none")
    wait_for(output_of(recipe) / "checkpoints" / "step-*", process)
    with suspended(psutil.Process(process.pid).children(recursive=True)):
        process.wait(PATIENCE)
    message = fail(process).splitlines()[-1]
    assert message.startswith("error: no update for 10 seconds (hang_timeout)")
    stacks = (output_of(recipe) / "hangs" / "process-0.txt").read_text()
    assert "resumable_batches.py" in stacks
    assert "trainer.py" in stacks


def test_a_process_does_not_wait_long_for_one_that_hangs(tmp_path, color_dataset, linear_config):
    fields = {"max_steps": 100_000, "save_steps": 0, "eval_steps": 0, "profile_steps": 1}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, ddp_timeout=10, **fields)
    process = start(recipe, "--report_to", "none", launch=TWO_PROCESSES)
    # Between two saves, not in one: there, processes wait longer for each other.
    wait_for(output_of(recipe) / "profile" / "trace-0.json", process)
    children = psutil.Process(process.pid).children(recursive=True)
    trainers = [child for child in children if "train.py" in " ".join(child.cmdline())]
    first, second = sorted(trainers, key=lambda child: child.environ()["RANK"])
    with suspended([second]):
        first.wait(PATIENCE)
    assert "imed out" in fail(process)


def test_a_process_that_blocks_the_interpreter_ends_and_shows_its_stacks(tmp_path):
    path = tmp_path / "hangs" / "process-0.txt"
    program = (
        "import re; from pathlib import Path\n"
        "from modeling_clip_vit.training.hangs import HangWatch\n"
        f"HangWatch(Path({str(path)!r}), 0.5).restart()\n"
        "re.match('(a+)+$', 'a' * 100 + 'b')"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=REPOSITORY, timeout=PATIENCE)
    assert done.returncode == 1
    assert "in match" in path.read_text()
