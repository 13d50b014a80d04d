"""The page's own files, and the npm packages that it runs."""

import shutil
from pathlib import Path

WEB_FOLDER, VENDOR_FOLDER = Path(__file__).parent / "web", Path(__file__).parent / "vendor"


def copy_page(folder: Path):
    """Copy everything that is the same on every page."""
    shutil.copytree(WEB_FOLDER, folder, dirs_exist_ok=True)
    shutil.copytree(
        VENDOR_FOLDER, folder / "vendor", ignore=shutil.ignore_patterns("*.py", "__pycache__")
    )
