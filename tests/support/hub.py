"""The Hub on a machine without network: what was downloaded before."""

import shutil
from pathlib import Path

COMMIT = "0" * 40


def fill_hub_cache(cache: Path, name: str, source: Path):
    """Put a folder into a cache of the Hub, as if the repository had been downloaded."""
    repository = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
