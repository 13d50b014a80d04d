"""Which code this is, and which packages it runs on."""

import hashlib
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

#: Of this package; here, where reading it imports neither torch nor Transformers.
__version__ = "0.1.0"


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


def code_digest(*patterns: str) -> str:
    """A hash of some of this package's code, which changes only when that code does.

    Args:
        patterns: of files, relative to the package's folder.
    """
    folder = Path(__file__).parent.parent
    files = {file for pattern in patterns for file in folder.glob(pattern)}
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode())
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def package_versions(*names: str) -> dict[str, str]:
    """Package -> version, of those that are installed as packages."""
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions
