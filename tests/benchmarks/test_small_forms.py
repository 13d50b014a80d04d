"""The programs of benchmarks/gpu.py and cpu.py in their small form."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import REPOSITORY


def run(*arguments: str | Path) -> subprocess.CompletedProcess:
    """A program of benchmarks/."""
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "names"),
    [
        ("gpu", {"attention", "loss", "b32", "pipeline", "inference"}),
        ("cpu", {"steps_from_files", "loss_memory"}),
    ],
)
def test_every_section_runs_in_its_small_form(tmp_path, program, names):
    # Of the CPU's, those whose form the GPU's do not have.
    only = ["--only", *names] if program == "cpu" else []
    options = ["--name", "try", "--small", "--minutes", "30", "--output", tmp_path]
    done = run(f"benchmarks/{program}.py", *options, *only)
    assert done.returncode == 0, done.stdout + done.stderr
    sections = json.loads((tmp_path / f"{program}-try.json").read_text())["sections"]
    assert names <= sections.keys()
    assert all(found["figures"] for found in sections.values())
