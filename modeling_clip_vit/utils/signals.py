"""Signals that ask a process to stop, which ends what it is doing first."""

import signal
from typing import Any

#: Ctrl-C, what a scheduler sends, and a closed terminal (a signal that Windows lacks).
STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class StopSignals:
    """In its context, notes the first signal to stop; the second ends the process at once."""

    def __init__(self):
        self.noted = 0  # the signal that came to this process, or 0
        self.former_handlers: dict = {}

    def __enter__(self) -> "StopSignals":
        for signal_number in STOP_SIGNALS:
            self.former_handlers[signal_number] = signal.signal(signal_number, self.note)
        return self

    def __exit__(self, *error: Any):
        for signal_number, handler in self.former_handlers.items():
            signal.signal(signal_number, handler)

    def note(self, signal_number: int, frame: Any):
        """Handle a signal."""
        self.noted = signal_number
        signal.signal(signal_number, signal.default_int_handler)
