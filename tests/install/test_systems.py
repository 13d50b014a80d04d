"""Other systems and devices, as far as this machine can stand in for them."""

import subprocess
import sys

import psutil
import pytest
import torch

from modeling_clip_vit.utils import devices
from tests.support import REPOSITORY
from tests.support.processes import run_without_package
from tests.support.runs import write_recipe

UNIX_MODULES = ("fcntl", "resource", "pwd", "grp", "termios")


def test_no_module_imports_what_only_unix_has():
    """At its top, so that importing it would fail elsewhere."""
    offenders = []
    for path in (REPOSITORY / "modeling_clip_vit").rglob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if line[:1] not in ("", " ") and words[0] in ("import", "from"):
                offenders += [f"{path.name}: {line}" for name in UNIX_MODULES if name == words[1]]
    assert not offenders


@pytest.mark.slow
def test_training_starts_where_the_modules_of_unix_are_missing(
    tmp_path, color_dataset, linear_config, monkeypatch
):
    # Without fcntl, filelock goes by a lock's file: one left by another process would hold forever.
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=2, report_to="none")
    code = f"""
        sys.path.insert(0, {str(REPOSITORY)!r})
        from modeling_clip_vit.cli import main
        code = main(["train", "--config", {str(recipe)!r}])
        assert code == 0, code
    """
    # Other packages look for it themselves, and do without.
    run_without_package(code, tmp_path, without=("fcntl",))
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_the_device_is_the_accelerator_that_torch_names(monkeypatch):
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("xpu")
    )
    assert devices.default_device() == torch.device("xpu")


def test_the_peak_of_memory_is_at_least_what_is_held_now():
    held = torch.ones(50_000_000)  # 200 MB
    peak = devices.peak_memory(torch.device("cpu"))
    assert peak >= 0.9 * psutil.Process().memory_info().rss / 1e6 >= held.nbytes / 1e6


#: Runs train.py, and sends the signal of Ctrl-C when a module is about to be imported.
INTERRUPTED = """
import os, runpy, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)

# What a shell starts in the background ignores the signal.
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Interrupt())
runpy.run_path("train.py", run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize("module", ["torch", "datasets"])
def test_ctrl_c_while_it_imports_is_one_word(module):
    command = [sys.executable, "-c", INTERRUPTED, "--help", module]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 130, done.stderr[-2000:]
    assert done.stderr.splitlines()[-1] == "interrupted"
    assert "Traceback" not in done.stderr
