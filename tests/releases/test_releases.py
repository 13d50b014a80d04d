"""A checkpoint loads and embeds the same with older and newer releases of Transformers and torch.

Each release is installed by pip into a folder of its own that comes first on the path; the rest
stays. `CLIP_VIT_RELEASES=5.7.0,5.9.0 pytest tests/releases` tries others. Those of torch are 3 GB
each, and are tried where they are asked for: `CLIP_VIT_TORCH=2.6.0,2.8.0`.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support import REPOSITORY

#: The oldest that a checkpoint loads with, where something changed since, and the newest tried.
RELEASES = os.environ.get("CLIP_VIT_RELEASES", "5.5.0,5.8.1,5.15.1,5.20.0,5.24.0").split(",")
TORCH_RELEASES = [name for name in os.environ.get("CLIP_VIT_TORCH", "").split(",") if name]
#: The release of torchvision that fits one of torch.
TORCHVISION = {"2.6.0": "0.21.0", "2.7.1": "0.22.1", "2.8.0": "0.23.0", "2.9.1": "0.24.1"}
SCRIPT = REPOSITORY / "tests" / "support" / "programs" / "load_anywhere.py"


@pytest.fixture(scope="session")
def installed() -> Path:
    """Where releases are kept from one run to the next."""
    home = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
    return Path(home) / "clip-vit" / "releases"


def install(target: Path, *requirements: str) -> Path:
    """A folder with the releases that are asked for and what they need."""
    if not target.is_dir():
        partial = target.with_name(f".{target.name}.partial")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(partial)]
        subprocess.run([*command, *requirements], check=True)
        partial.rename(target)
    return target


def hub_cache(folder: Path, place: Path) -> Path:
    """A cache of the Hub in which a folder is the model `me/squares`."""
    model = place / "hub" / "models--me--squares"
    snapshot = model / "snapshots" / ("0" * 40)
    shutil.copytree(folder, snapshot)
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    return place


def load(release: Path, path: str, output: Path, home: Path) -> dict:
    """What a process with this release makes of a checkpoint."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(release),
        "HF_HOME": str(home),
        "HF_MODULES_CACHE": str(output.parent / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(SCRIPT), str(output), path]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, cwd=output.parent
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(output.read_text())


@pytest.fixture(scope="session")
def expected(checkpoint, tmp_path_factory) -> dict:
    """What the installed release makes of it."""
    folder = tmp_path_factory.mktemp("expected")
    return load(folder, str(checkpoint), folder / "found.json", folder)


@pytest.mark.parametrize("release", RELEASES)
def test_a_checkpoint_embeds_the_same(release, installed, checkpoint, expected, tmp_path):
    place = install(installed / release, f"transformers=={release}")
    compare(place, checkpoint, expected, tmp_path, (release, expected["versions"][1]))


@pytest.mark.parametrize("release", TORCH_RELEASES)
def test_it_does_so_with_torch(release, installed, checkpoint, expected, tmp_path):
    requirements = f"torch=={release}", f"torchvision=={TORCHVISION[release]}"
    place = install(installed / f"torch-{release}", *requirements)
    compare(place, checkpoint, expected, tmp_path, (expected["versions"][0], release))


def compare(place: Path, checkpoint: Path, expected: dict, folder: Path, versions: tuple[str, str]):
    """Load from a folder and from the Hub's cache, with the releases in a place."""
    home = hub_cache(checkpoint, folder / "home")
    for name, path in {"folder": str(checkpoint), "hub": "me/squares"}.items():
        (folder / name).mkdir()
        found = load(place, path, folder / name / "found.json", home)
        assert [version.split("+")[0] for version in found["versions"]] == [
            version.split("+")[0] for version in versions
        ]
        for key in ("image_embeds", "text_embeds", "scores"):
            torch.testing.assert_close(
                torch.tensor(found[key]), torch.tensor(expected[key]), atol=1e-5, rtol=0
            )
