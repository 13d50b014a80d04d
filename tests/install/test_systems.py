"""Other systems and devices, as far as this machine can stand in for them."""

import subprocess
import sys
import textwrap

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
    found = []
    for path in (REPOSITORY / "modeling_clip_vit").rglob("*.py"):
        for line in path.read_text().splitlines():
            words = line.split()
            if line[:1] not in ("", " ") and words[0] in ("import", "from"):
                found += [f"{path.name}: {line}" for name in UNIX_MODULES if name == words[1]]
    assert not found


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
    assert devices.default_device().type in ("cpu", "cuda", "mps", "xpu")
    monkeypatch.setattr(
        torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("xpu")
    )
    assert devices.default_device() == torch.device("xpu")


def test_bfloat16_is_timed_and_not_looked_up():
    gain = devices.bfloat16_gain("cpu")
    assert 0.01 < gain < 100
    assert devices.bfloat16_gain("meta") >= 0  # nothing is computed there, and nothing fails


def test_memory_is_told_on_every_system():
    peak = devices.peak_memory(torch.device("cpu"))
    assert peak >= 0.5 * psutil.Process().memory_info().rss / 1e6


@pytest.mark.slow
def test_ctrl_c_while_it_starts_is_no_traceback():
    program = textwrap.dedent(
        """
        import _thread, threading
        threading.Timer(0.3, _thread.interrupt_main).start()
        import runpy, sys
        sys.argv = ["train.py", "--help"]
        runpy.run_path("train.py", run_name="__main__")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode in (0, 130), done.stderr[-2000:]
    assert "Traceback" not in done.stderr
