"""Which code this is, and which packages it runs on."""

import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .. import __version__


def code_version() -> str:
    """The commit of this package's code, and whether it was changed since; else its version.

    A repository that only contains the environment that this package is installed in says nothing
    about it: its files must be tracked there.
    """
    folder = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")
        changed = git("status", "--porcelain", "--untracked-files=no", "--", ".")
        return f"commit `{git('rev-parse', 'HEAD')}`{' with changes' if changed else ''}"
    except (OSError, subprocess.CalledProcessError):
        return f"clip-vit {__version__}"


def package_versions(*names: str) -> dict[str, str]:
    """Package -> version, of those that are installed as packages."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
