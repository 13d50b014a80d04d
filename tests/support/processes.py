"""Code and commands in processes of their own."""

import os
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from . import REPOSITORY


def run_without_package(
    code: str,
    folder,
    *arguments: str,
    without: tuple[str, ...] = ("modeling_clip_vit",),
    environment: Mapping[str, str] | None = None,
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
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run_command(
    environment: Mapping[str, str], *arguments: str, **options
) -> subprocess.CompletedProcess:
    """Run `clip-vit` with arguments in an environment; what it wrote is in the result."""
    command = [sys.executable, "-m", "clip_vit", *arguments]
    return subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, **options
    )


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


#: Seconds until a process counts as hung: on a busy machine, importing torch can take minutes.
PATIENCE = 600
#: Options of Accelerate's launcher for two processes of this machine that meet through gloo.
TWO_PROCESSES = ("--multi_gpu", "--num_processes", "2", "--main_process_port", "0")


def start(recipe: Path, *arguments: str, launch: Sequence[str] = (), **options) -> subprocess.Popen:
    """Start train.py on a recipe, through Accelerate's launcher if it has options."""
    launcher = []
    if launch:
        launcher = ["-m", "accelerate.commands.launch", *launch]
        options.setdefault("env", {**os.environ, "OMP_NUM_THREADS": "1"})
    script = [str(REPOSITORY / "train.py"), "--config", str(recipe)]
    return subprocess.Popen(
        [sys.executable, *launcher, *script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def start_elastic(recipe: Path, *arguments: str, max_restarts: int) -> subprocess.Popen:
    """Start train.py in two processes that torchrun replaces when one dies, a number of times."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    script = [str(REPOSITORY / "train.py"), "--config", str(recipe)]
    return subprocess.Popen(
        [sys.executable, *launcher, "--max-restarts", str(max_restarts), *script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # By default, restarted processes find the addresses of those before them in torch's store.
        env={**os.environ, "OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"},
    )


def kill_second_rank(job: subprocess.Popen):
    """Kill the second of the two processes that a launcher has started."""
    children = psutil.Process(job.pid).children()
    ranks = [child for child in children if "train.py" in str(child.cmdline())]
    assert len(ranks) == 2
    ranks[1].kill()


def outputs(process: subprocess.Popen, seconds: float = PATIENCE) -> tuple[str, str]:
    """What a process wrote to stdout and stderr until it ended; none is left behind."""
    try:
        return process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired as error:
        kill(process)
        raise AssertionError(f"{process.args} has not ended in {seconds} s") from error


def finish(process: subprocess.Popen, seconds: float = PATIENCE) -> str:
    """Wait until a process has ended well; returns what it wrote to stderr."""
    _, errors = outputs(process, seconds)
    assert process.returncode == 0, errors[-3000:]
    return errors


def fail(process: subprocess.Popen, seconds: float = PATIENCE) -> str:
    """Wait until a process has ended with an error; returns what it wrote to stderr."""
    _, errors = outputs(process, seconds)
    assert process.returncode != 0, errors[-3000:]
    return errors


def kill(process: subprocess.Popen):
    """End a process without giving it a chance to clean up."""
    process.kill()
    process.communicate()


def wait_until(
    condition: Callable[[], object],
    what: str,
    process: subprocess.Popen | None = None,
    seconds: float = PATIENCE,
    interval: float = 0.02,
):
    """Wait until a condition holds, while a process that is to bring it about runs."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.stderr.read()
        if time.monotonic() > deadline:
            if process is not None:
                kill(process)
            raise AssertionError(f"{what}: not in {seconds} s")
        time.sleep(interval)


def wait_for(path: Path, process: subprocess.Popen, seconds: float = PATIENCE):
    """Wait until a file or folder exists; its name may have wildcards."""
    wait_until(lambda: any(path.parent.glob(path.name)), f"no {path}", process, seconds)
