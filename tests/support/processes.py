"""Code and commands in processes of their own."""

import subprocess
import sys
import textwrap
import time
from pathlib import Path

from . import REPOSITORY


def run_without_package(
    code: str, folder, *arguments: str, without: tuple[str, ...] = ("modeling_clip_vit",)
) -> str:
    """Run code in another process, in `folder`, where some packages cannot be imported."""
    block = f"""
        import sys
        class Block:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in {without}:
                    raise ModuleNotFoundError("No module named " + name, name=name)
        sys.meta_path.insert(0, Block())
        try:
            import {without[0]}
        except ModuleNotFoundError:
            pass
        else:
            raise SystemExit("the package can still be imported")
    """
    program = textwrap.dedent(block) + textwrap.dedent(code)
    command = [sys.executable, "-I", "-c", program, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_example(
    folder,
    *arguments: str,
    without: tuple[str, ...] = ("torch", "transformers", "modeling_clip_vit"),
) -> str:
    """What an export's example.py prints where some packages cannot be imported."""
    code = """
        import runpy
        sys.argv[0] = "example.py"
        runpy.run_path("example.py", run_name="__main__")
    """
    return run_without_package(code, folder, *arguments, without=without)


def start(recipe: Path, *arguments: str, **options) -> subprocess.Popen:
    """Start train.py on a recipe."""
    return subprocess.Popen(
        [sys.executable, str(REPOSITORY / "train.py"), "--config", str(recipe), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120):
    """Wait until a file or folder exists."""
    deadline = time.monotonic() + seconds
    while not list(path.parent.glob(path.name)):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"no {path} in {seconds} s"
        time.sleep(0.02)
