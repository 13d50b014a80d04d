"""A small Hub on this machine, for the real huggingface_hub to talk to.

It speaks what huggingface_hub 2.4 asks while it creates repositories, uploads and downloads, in a
process that has `HF_ENDPOINT` and `HF_HUB_DISABLE_XET=1` in its environment: Xet has servers and a
protocol of its own, LFS is plain HTTP. Files of LFS are downloaded from another host, `localhost`
instead of 127.0.0.1, as those of the Hub are from its network.

The answers are in `hub_repositories` and `hub_files`, on top of `hub_http`.
"""

import os
import re
import threading
from http.server import ThreadingHTTPServer
from pathlib import Path

from .hub_files import FileAnswers
from .hub_http import Fault, Request
from .hub_repositories import RepositoryAnswers
from .hub_store import HubStore


class Handler(RepositoryAnswers, FileAnswers):
    """Answers every request that this Hub knows."""


class HubServer:
    """A running Hub; use it as a context manager.

    Args:
        folder: for the files.

    Attributes:
        store: the repositories.
        faults: what is to go wrong; the first that fits a request is used.
        requests: what was asked so far.
    """

    def __init__(self, folder: Path):
        self.store = HubStore(folder)
        self.faults: list[Fault] = []
        self.requests: list[Request] = []
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "HubServer":
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, home: Path, token: str = "hf_writer", **others: str) -> dict[str, str]:
        """The environment of a process that takes this for the Hub.

        Args:
            home: HF_HOME, with the cache of downloads.
            token: of the user; empty for none.
            others: further variables.
        """
        inherited = {name: value for name, value in os.environ.items() if name[:3] != "HF_"}
        own = {
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        return inherited | own | ({"HF_TOKEN": token} if token else {}) | others

    def fail(self, method: str, pattern: str, **fields) -> Fault:
        """Make requests fail, see `Fault`."""
        fault = Fault(method, pattern, **fields)
        self.faults.append(fault)
        return fault

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault of a request, which uses it up."""
        with self.store.lock:
            for fault in self.faults:
                if fault.times and fault.method in ("", method) and re.search(fault.pattern, path):
                    fault.times -= 1
                    return fault
        return None

    def asked(self, method: str, pattern: str) -> list[Request]:
        """The requests so far whose method and path fit."""
        return [
            request
            for request in list(self.requests)
            if request.method == method and re.search(pattern, request.path)
        ]
