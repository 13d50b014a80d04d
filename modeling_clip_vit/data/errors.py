"""What can be wrong with data, in one clear sentence."""


class DataError(ValueError):
    """Something about the data that the user can mend; the message is one clear sentence."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":.") if lines else type(error).__name__
