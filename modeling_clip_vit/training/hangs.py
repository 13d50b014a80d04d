"""Notice that a run hangs: limits on the time of an update, and of waiting for other processes."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TextIO

from ..utils.processes import TIMEOUT, set_timeout

#: Seconds after which the C library's timer ends a process whose interpreter is blocked as well.
GRACE = 5.0


class StepLimits:
    """Limits the time of updates, from the first one on; in its context.

    Before the first update, while models compile and features are computed, and while the main
    process evaluates or saves, processes wait for each other for `TIMEOUT`, and no update is due.

    Args:
        folder: for the stacks of a process that hangs.
        process_index: of this process.
        hang_timeout: seconds that an update may take; 0 for any time.
        ddp_timeout: seconds that processes wait for each other within an update.
        wait_for_everyone: waits for all processes.
    """

    def __init__(
        self,
        folder: Path,
        process_index: int,
        hang_timeout: float,
        ddp_timeout: float,
        wait_for_everyone: Callable[[], None],
    ):
        self.ddp_timeout = timedelta(seconds=ddp_timeout)
        self.wait_for_everyone = wait_for_everyone
        self.is_limited = False
        self.watch: HangWatch | None = None
        if hang_timeout:
            self.watch = HangWatch(folder / f"process-{process_index}.txt", hang_timeout)

    def __enter__(self) -> "StepLimits":
        return self

    def __exit__(self, *error: Any):
        self.lift()
        if self.watch:
            self.watch.close()

    def update_done(self):
        """Limit the next update."""
        if not self.is_limited:
            self.is_limited = True
            set_timeout(self.ddp_timeout)
        if self.watch:
            self.watch.restart()

    def lift(self):
        """Limit nothing until the next update is done."""
        if self.is_limited:
            self.is_limited = False
            set_timeout(TIMEOUT)
        if self.watch:
            self.watch.pause()

    @contextmanager
    def lifted(self) -> Iterator[None]:
        """Limit nothing while the main process does what the others wait for."""
        self.lift()
        yield
        # Nobody begins the next update, with its short limit, while the main process is not ready.
        self.wait_for_everyone()
        self.update_done()


class HangWatch:
    """Ends this process once it is not restarted in time, with the stacks of its threads in a file.

    A thread says so in a sentence. Where that thread does not get the interpreter's lock, a timer
    of the C library writes the stacks a little later.

    Args:
        path: of the file; it is there only after a hang.
        seconds: until then.
    """

    def __init__(self, path: Path, seconds: float):
        self.path, self.seconds = path, seconds
        self.deadline: float | None = None
        self.changed = threading.Condition()
        self.is_closed = False
        self.thread: threading.Thread | None = None
        self.file: TextIO | None = None

    def restart(self):
        """Begin to count anew."""
        if self.file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.file = self.path.open("w", encoding="utf-8")
            self.thread = threading.Thread(target=self.run, name="hang watch", daemon=True)
            self.thread.start()
        faulthandler.dump_traceback_later(self.seconds + GRACE, exit=True, file=self.file)
        with self.changed:
            self.deadline = time.monotonic() + self.seconds
            self.changed.notify()

    def pause(self):
        """Stop counting."""
        faulthandler.cancel_dump_traceback_later()
        with self.changed:
            self.deadline = None

    def close(self):
        """Stop for good, and remove the empty file."""
        self.pause()
        if self.file is None or self.thread is None:
            return
        with self.changed:
            self.is_closed = True
            self.changed.notify()
        self.thread.join()
        self.file.close()
        self.path.unlink(missing_ok=True)
        if not any(self.path.parent.iterdir()):
            self.path.parent.rmdir()

    def run(self):
        """Wait for the deadline, which moves."""
        with self.changed:
            while not self.is_closed:
                left = None if self.deadline is None else self.deadline - time.monotonic()
                if left is not None and left <= 0:
                    self.end_process()
                self.changed.wait(left)

    def end_process(self):
        """Write the stacks, say so, and end this process; nothing of it can be trusted to go on."""
        assert self.file is not None
        faulthandler.dump_traceback(self.file)
        self.file.flush()
        print(
            f"\nerror: no update for {self.seconds:g} seconds (hang_timeout): {self.path} shows "
            "where each thread was; go on with --resume_from_checkpoint latest",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)
