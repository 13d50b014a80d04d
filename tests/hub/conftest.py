"""Folders to upload."""

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path, checkpoint) -> Path:
    """A checkpoint of one's own, to change and to upload."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "mine"))
    (folder / "README.md").write_text("# Squares\n")
    return folder
