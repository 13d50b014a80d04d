"""Signals that ask a run to stop: it finishes its update and saves a checkpoint first."""

import signal
from typing import Any

#: Ctrl-C, what a scheduler sends, and a closed terminal (a signal that Windows lacks).
STOP_SIGNALS = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run was asked to stop, and saved a checkpoint first."""

    def __init__(self, signal_number: int, checkpoint: str):
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name}; the run is saved in {checkpoint}: "
            "go on with --resume_from_checkpoint latest"
        )
        #: What a shell reports for a process that ended by this signal.
        self.exit_code = 128 + signal_number


class StopSignals:
    """In its context, notes the first signal to stop; the second ends the process at once."""

    def __init__(self):
        self.noted = 0  # the signal that came to this process, or 0
        self.former_handlers: dict = {}

    def __enter__(self):
        for signal_number in STOP_SIGNALS:
            self.former_handlers[signal_number] = signal.signal(signal_number, self.note)

    def __exit__(self, *error: Any):
        for signal_number, handler in self.former_handlers.items():
            signal.signal(signal_number, handler)

    def note(self, signal_number: int, frame: Any):
        """Handle a signal."""
        self.noted = signal_number
        signal.signal(signal_number, signal.default_int_handler)
