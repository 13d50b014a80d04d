"""The programs of benchmarks/gpu.py in their small form."""

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
def test_every_section_runs_in_its_small_form(tmp_path):
    options = ["--name", "try", "--small", "--minutes", "30", "--output", tmp_path]
    done = run("benchmarks/gpu.py", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    sections = json.loads((tmp_path / "gpu-try.json").read_text())["sections"]
    assert {"attention", "loss", "b32", "pipeline", "inference"} <= sections.keys()
    assert all(found["figures"] for found in sections.values())
