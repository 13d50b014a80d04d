"""A checkpoint loads and embeds the same with older and newer releases of Transformers and torch.

pip installs each release into a folder of its own that comes first on the path; the rest stays.
`CLIP_VIT_RELEASES=5.7.0,5.9.0 pytest tests/releases` tries others. Releases of torch are 3 GB each,
and only those of `CLIP_VIT_TORCH=2.6.0,2.8.0` are tried.
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
from tests.support.releases import install, releases_folder

#: The oldest that a checkpoint loads with, where something changed since, and the newest tried.
RELEASES = os.environ.get("CLIP_VIT_RELEASES", "5.5.0,5.8.1,5.15.1,5.20.0,5.24.0").split(",")
TORCH_RELEASES = [name for name in os.environ.get("CLIP_VIT_TORCH", "").split(",") if name]
#: The release of torchvision that fits one of torch.
TORCHVISION = {"2.6.0": "0.21.0", "2.7.1": "0.22.1", "2.8.0": "0.23.0", "2.9.1": "0.24.1"}
SCRIPT = REPOSITORY / "tests" / "support" / "programs" / "load_anywhere.py"


@pytest.fixture(scope="session")
def installed() -> Path:
    """Where releases are kept from one run to the next."""
    return releases_folder()


@pytest.fixture(scope="session")
def home(checkpoint, tmp_path_factory) -> Path:
    """A cache of the Hub in which the checkpoint is the model `me/squares`."""
    folder = tmp_path_factory.mktemp("home")
    model = folder / "hub" / "models--me--squares"
    shutil.copytree(checkpoint, model / "snapshots" / ("0" * 40))
    (model / "refs").mkdir()
    (model / "refs" / "main").write_text("0" * 40)
    return folder


def load(release: Path, path: str, output: Path, home: Path) -> dict:
    """The embeddings and scores that a process with this release computes with a checkpoint."""
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
def expected(checkpoint, home, tmp_path_factory) -> dict:
    """The same with the installed release."""
    folder = tmp_path_factory.mktemp("expected")
    return load(folder, str(checkpoint), folder / "outputs.json", home)


@pytest.fixture(params=["folder", "hub"])
def source(request, checkpoint) -> str:
    """The checkpoint in a folder, or in the cache of the Hub."""
    return str(checkpoint) if request.param == "folder" else "me/squares"


@pytest.mark.parametrize("release", RELEASES)
def test_a_release_of_transformers_embeds_the_same(
    release, installed, source, home, expected, tmp_path
):
    place = install(installed / release, f"transformers=={release}")
    outputs = load(place, source, tmp_path / "outputs.json", home)
    compare(outputs, expected, [release, expected["versions"][1]])


@pytest.mark.parametrize("release", TORCH_RELEASES)
def test_a_release_of_torch_embeds_the_same(release, installed, source, home, expected, tmp_path):
    requirements = f"torch=={release}", f"torchvision=={TORCHVISION[release]}"
    place = install(installed / f"torch-{release}", *requirements)
    outputs = load(place, source, tmp_path / "outputs.json", home)
    compare(outputs, expected, [expected["versions"][0], release])


def compare(outputs: dict, expected: dict, versions: list[str]):
    """The outputs are the expected ones, and from these releases of Transformers and torch."""
    loaded, wanted = (
        [name.split("+")[0] for name in names] for names in (outputs["versions"], versions)
    )
    assert loaded == wanted
    for key in ("image_embeds", "text_embeds", "scores"):
        torch.testing.assert_close(
            torch.tensor(outputs[key]), torch.tensor(expected[key]), atol=1e-5, rtol=0
        )
