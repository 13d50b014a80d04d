"""Optional packages: the one place that says which is missing and how to install it."""

from collections.abc import Sequence
from importlib.util import find_spec

from .errors import UserError


class MissingPackageError(UserError):
    """A package that an option, a format or a checkpoint needs is not installed.

    Args:
        packages: names of the missing packages.
        extra: the extra of this package that installs them; empty if there is none.
        purpose: what needs them, as in "PURPOSE needs …".
    """

    def __init__(self, packages: Sequence[str], extra: str, purpose: str):
        verb = "is" if len(packages) == 1 else "are"
        target = f"'clip-vit[{extra}]'" if extra else " ".join(packages)
        super().__init__(
            f"{purpose} needs {' and '.join(packages)}, which {verb} not installed: "
            f"pip install {target}"
        )


def require(packages: Sequence[str], extra: str, purpose: str):
    """Check that packages are installed, without importing them.

    Args:
        packages: names to import them by.
        extra: the extra of this package that installs them; empty if there is none.
        purpose: what needs them, as in "PURPOSE needs …".

    Raises:
        MissingPackageError: one is not.
    """
    missing = [name for name in packages if not is_installed(name)]
    if missing:
        raise MissingPackageError(missing, extra, purpose)


def is_installed(name: str) -> bool:
    """Whether a top-level package can be found."""
    try:
        return find_spec(name) is not None
    except ImportError:
        return False
