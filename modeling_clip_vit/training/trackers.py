"""Experiment trackers, found before a run begins."""

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from ..utils.errors import UserError
from ..utils.packages import MissingPackageError


def find_trackers(report_to: str) -> list[str]:
    """The trackers that `report_to` names, as Accelerate takes them.

    Args:
        report_to: names with commas between them, `all` for every one that is installed, or
            `none`.

    Raises:
        UserError: there is no such tracker.
        MissingPackageError: it is not installed.
    """
    names = [name.strip() for name in report_to.split(",") if name.strip()]
    available = [str(name) for name in get_available_trackers()]
    if "all" in names:
        return available
    known = [str(name) for name in LOGGER_TYPE_TO_CLASS]
    for name in names:
        if name == "none":
            continue
        if name not in known:
            raise UserError(
                f"report_to={name!r} is not allowed: it must be none, all or one of "
                f"{', '.join(known)}"
            )
        if name not in available:
            raise MissingPackageError([name], "", f"report_to={name!r}")
    return [name for name in names if name != "none"]
