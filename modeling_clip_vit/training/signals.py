"""What a run ends with when a signal asks it to stop."""

import signal


class Interrupted(Exception):  # noqa: N818 - not an error: the run was asked to stop
    """The run was asked to stop, and saved a checkpoint first."""

    def __init__(self, signal_number: int, checkpoint: str):
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name}; the run is saved in {checkpoint}: "
            "go on with --resume_from_checkpoint latest"
        )
        #: What a shell reports for a process that ended by this signal.
        self.exit_code = 128 + signal_number
