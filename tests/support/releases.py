"""Releases of packages beside those of the environment, kept from one run to the next."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


def releases_folder() -> Path:
    """Where releases are kept."""
    home = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    return Path(home) / "clip-vit" / "releases"


def install(target: Path, *requirements: str, with_needs: bool = True) -> Path:
    """A folder with these releases; without a network, the test is skipped.

    Args:
        target: the folder.
        requirements: as pip takes them.
        with_needs: whether what they need is installed too.
    """
    if not target.is_dir():
        partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(partial)]
        needs = [] if with_needs else ["--no-deps"]
        done = subprocess.run([*command, *needs, *requirements], capture_output=True, text=True)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            pytest.skip(f"cannot install {' '.join(requirements)}: {reason}")
        partial.rename(target)
    return target
