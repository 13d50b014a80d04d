"""What can be wrong with data, in one clear sentence."""

from ..utils.errors import UserError


class DataError(UserError):
    """Something about the data that the user can fix; the message is one clear sentence."""
