"""Transformers' own tests, out of the source archive of the installed release.

The wheel does not have them. The archive lacks three of their packages; what the model tests use of
those stands in here.
"""

import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers
from huggingface_hub.constants import HF_HOME

PACKAGE = "transformers_tests"
STAND_INS = {
    "__init__.py": "",
    "exporters/__init__.py": "",
    "exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    "generation/__init__.py": "",
    "generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    "utils/__init__.py": "",
    "utils/test_configuration_utils.py": "config_common_kwargs: dict = {}\n",
}


class DownloadError(RuntimeError):
    """The archive cannot be had; the message says why."""


def find_tests() -> Path:
    """A folder with the package `transformers_tests`, made at the first call.

    Raises:
        DownloadError: the archive cannot be had.
    """
    folder = Path(HF_HOME) / "clip-vit" / f"transformers-{transformers.__version__}-tests"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as partial:
            unpack(download(Path(partial)), Path(partial) / "unpacked" / PACKAGE)
            try:
                (Path(partial) / "unpacked").rename(folder)
            except OSError:  # another process was faster
                assert folder.is_dir()
    return folder


def download(folder: Path) -> Path:
    """The source archive of the installed release.

    Raises:
        DownloadError: pip cannot download it.
    """
    requirement = f"transformers=={transformers.__version__}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", requirement]
    done = subprocess.run(
        [*command, "--no-binary", "transformers", "--dest", str(folder)],
        capture_output=True,
        text=True,
    )
    archives = list(folder.glob("transformers-*.tar.gz"))
    if not archives:
        lines = done.stderr.strip().splitlines() or ["pip said nothing"]
        raise DownloadError(f"cannot download the source archive of {requirement}: {lines[-1]}")
    return archives[0]


def unpack(archive: Path, package: Path):
    """Unpack the test modules of an archive, and add stand-ins for those that it lacks."""
    with tarfile.open(archive) as tar:
        for member in tar:
            path = Path(*Path(member.name).parts[1:])
            if member.isfile() and path.parent == Path("tests") and path.suffix == ".py":
                package.mkdir(parents=True, exist_ok=True)
                (package / path.name).write_bytes(tar.extractfile(member).read())
    for name, text in STAND_INS.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
