"""Uploads in the background: folders wait in a queue on disk until the Hub has them."""

import json
import logging
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.utils import disable_progress_bars

from ..utils.errors import UserError, one_line
from ..utils.folders import replaced_folder, write_json
from .contents import Contents, read_contents
from .errors import RetryableError
from .push import Pushed, PushOptions, move_tag, push

logger = logging.getLogger(__name__)

#: What a waiting folder says about its upload; it is not uploaded.
ORDER_FILE = "upload.json"
#: Seconds until a failed upload is tried again: at first, and at most.
FIRST_WAIT, LONGEST_WAIT, LONGEST_WAIT_AT_END = 1.0, 300.0, 10.0


@dataclass(frozen=True)
class Upload:
    """A folder that waits.

    Args:
        folder: of the files.
        title: of its commit.
        tag: that `revision=` finds it by.
    """

    folder: Path
    title: str
    tag: str


class UploadQueue:
    """Uploads one folder after the other in a thread of its own, and keeps what has not arrived.

    What fails for a passing reason (network, limits and faults of the Hub) is tried again after
    longer and longer waits; any other reason ends the uploads. A folder is removed once it has
    arrived; those of an earlier process are uploaded first.

    Args:
        folder: of the waiting folders.
        repo_id: repository on the Hub.
        private: whether a new one is private.
    """

    def __init__(self, folder: Path, repo_id: str, private: bool | None = None):
        disable_progress_bars()  # they would write into those of the run
        self.folder, self.repo_id, self.private = folder, repo_id, private
        self.pending = list(find_waiting(folder))
        self.changed = threading.Condition()
        self.failure = ""  # why the last attempt failed; empty after a success
        self.is_over = False  # for a reason that does not pass
        self.is_closing = threading.Event()  # the run is at its end
        self.head: str | None = None  # commit that this queue made last
        self.thread = threading.Thread(target=self.work, name="uploads", daemon=True)
        self.thread.start()

    @contextmanager
    def add(self, name: str, title: str) -> Iterator[Path]:
        """A folder to fill, which is uploaded once the block has ended.

        Args:
            name: of the folder, and the tag of its commit.
            title: of the commit.
        """
        target = self.folder / name
        with replaced_folder(target) as partial:
            yield partial
            write_json(partial / ORDER_FILE, {"title": title, "tag": name})
        with self.changed:
            self.pending.append(Upload(target, title, name))
            self.changed.notify_all()

    def work(self):
        """Upload what waits, for as long as the process runs."""
        wait = FIRST_WAIT
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.pending or self.is_over)
                if self.is_over:
                    return
                upload = self.pending[0]
            try:
                self.send(upload)
                failure, wait = "", FIRST_WAIT
            except RetryableError as error:
                failure = one_line(error)
            except Exception as error:  # it must not end the run
                failure, self.is_over = one_line(error), True
                is_bug = not isinstance(error, UserError | OSError)
                logger.warning("uploading stops: %s", failure, exc_info=error if is_bug else None)
            with self.changed:
                self.failure = failure
                if not failure:
                    self.pending.remove(upload)
                self.changed.notify_all()
            if failure:
                wait = self.pause(wait)

    def pause(self, wait: float) -> float:
        """Wait until the next attempt, shorter at the end of the run; returns the next wait."""
        if self.is_over:
            return wait
        if self.is_closing.is_set():
            time.sleep(min(wait, LONGEST_WAIT_AT_END))
        elif self.is_closing.wait(wait):
            return FIRST_WAIT
        return min(2 * wait, LONGEST_WAIT)

    def send(self, upload: Upload):
        """Upload a folder, tag its commit, and remove it."""
        pushed = self.push(upload)
        self.head = pushed.commit
        move_tag(pushed.repo_id, upload.tag, pushed.commit)
        shutil.rmtree(upload.folder)

    def push(self, upload: Upload) -> Pushed:
        """Upload a folder on top of what this queue uploaded before."""
        options = PushOptions(private=self.private, message=upload.title)
        return push(read_contents(upload.folder), self.repo_id, options, self.head)

    def finish(self, patience: float):
        """Wait until all has arrived, or has failed for so long; then no more is uploaded.

        Args:
            patience: seconds to go on trying once an attempt has failed.
        """
        failing_since: float | None = None
        self.is_closing.set()
        with self.changed:
            while self.pending and not self.is_over:
                now = time.monotonic()
                if not self.failure:
                    failing_since = None
                elif failing_since is None:
                    failing_since = now
                elif now - failing_since > patience:
                    break
                self.changed.wait(min(1.0, patience))
            self.is_over = True
            self.changed.notify_all()

    def describe_rest(self) -> str:
        """A sentence on what has not arrived; empty if everything has."""
        with self.changed:
            waiting = [str(upload.folder) for upload in self.pending]
        if not waiting:
            return ""
        return (
            f"not uploaded, and kept in {', '.join(waiting)}: {self.failure}; upload them with "
            f"clip-vit push FOLDER {self.repo_id}, or go on with the run"
        )


def find_waiting(folder: Path) -> Iterator[Upload]:
    """What an earlier process left in a queue, in its order."""
    orders = sorted(folder.glob(f"*/{ORDER_FILE}"), key=lambda path: path.stat().st_mtime)
    for path in (path for path in orders if path.parent.name[0] != "."):
        order = json.loads(path.read_text(encoding="utf-8"))
        yield Upload(path.parent, order["title"], order["tag"])


def push_patiently(
    contents: Contents, repo_id: str, patience: float, options: PushOptions, known_head: str | None
) -> Pushed:
    """Upload, and try again for some seconds where it fails for a passing reason.

    Raises:
        HubError: it has failed for so long, or for good.
    """
    deadline, wait = time.monotonic() + patience, FIRST_WAIT
    while True:
        try:
            return push(contents, repo_id, options, known_head)
        except RetryableError:
            if time.monotonic() + wait > deadline:
                raise
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_AT_END)
