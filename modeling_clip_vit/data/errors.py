"""What can be wrong with data, in one clear sentence."""

from ..utils.errors import UserError


class DataError(UserError):
    """Something about the data that the user can fix; the message is one clear sentence."""


def check_option(is_allowed: bool, options: object, name: str, allowed: str):
    """Reject the value of an option, and say what is allowed.

    Args:
        is_allowed: whether the value is allowed.
        options: what has the option as a field.
        name: of the option.
        allowed: as in "it must be ALLOWED".

    Raises:
        DataError: the value is not allowed.
    """
    if not is_allowed:
        value = getattr(options, name)
        raise DataError(f"{name}={value} is not allowed: it must be {allowed}")
