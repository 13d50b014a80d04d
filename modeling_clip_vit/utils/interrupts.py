"""Ctrl-C while libraries load."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ending_on_interrupt() -> Iterator[None]:
    """End the process at once, with the exit code 130, if Ctrl-C is pressed meanwhile.

    For imports, during which there is nothing to lose: a KeyboardInterrupt in the C++ of torch
    aborts the process. Where something else than Python's default handles SIGINT, it goes on to.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def leave(*_):
    """A signal handler that says so and ends the process."""
    os.write(2, b"interrupted\n")
    os._exit(130)
