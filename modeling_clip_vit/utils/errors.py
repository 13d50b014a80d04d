"""Errors that a user can fix."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


class UserError(ValueError):
    """Something that the user can fix; the message is one clear sentence.

    The command line prints the message alone. Every other exception is a bug, and keeps its
    traceback.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":.") if lines else type(error).__name__


def one_line(error: BaseException) -> str:
    """The whole message of an error on one line."""
    return " ".join(str(error).split())


def unwrap(error: BaseException) -> BaseException:
    """The error of a value, without the one that strict configurations put around it."""
    from huggingface_hub.errors import StrictDataclassError  # here, for commands that start at once

    return (isinstance(error, StrictDataclassError) and error.__cause__) or error


@contextmanager
def as_user_error() -> Iterator[None]:
    """Turn the `ValueError` of a value that came from the user into a `UserError`.

    For the model's own files, which travel with a checkpoint and cannot import this module, and
    for strict configurations.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        from huggingface_hub.errors import StrictDataclassError

        if not isinstance(error, StrictDataclassError | ValueError):
            raise
        raise UserError(one_line(unwrap(error))) from error


@contextmanager
def warn_only(what: str) -> Iterator[None]:
    """Turn the failure of a step that is not essential into a warning.

    A bug's traceback is part of the warning.

    Args:
        what: what failed, as in "WHAT failed".
    """
    try:
        yield
    except Exception as error:
        is_bug = not isinstance(error, UserError | OSError)
        logger.warning("%s failed: %s", what, first_line(error), exc_info=error if is_bug else None)
