"""HTTP of a small Hub: routes, faults that a test switched on, tokens, and JSON."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote, urlsplit

from .hub_store import HubError, HubRepository

if TYPE_CHECKING:
    from .hub_server import HubServer

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
#: Token -> the user that it belongs to, and what it may do.
TOKENS = {"hf_writer": ("user", "write"), "hf_reader": ("user", "read")}
#: Method, pattern of the path -> the method of the handler that answers.
ROUTES: list[tuple[str, re.Pattern, str]] = []
REPO = r"/api/(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Fault:
    """What goes wrong at the next requests of a kind.

    Args:
        method: of HTTP; empty for any.
        pattern: regular expression that the path must contain.
        status: to answer; 0 to answer as usual, up to `cut`.
        times: how often; -1 for ever.
        headers: of the answer.
        message: of the answer.
        cut: bytes of the body, of an upload read or of a download sent, before the connection ends.
        action: called before the request is answered.
    """

    method: str
    pattern: str
    status: int = 0
    times: int = 1
    headers: dict[str, str] = field(default_factory=dict)
    message: str = "switched on by a test"
    cut: int | None = None
    action: Callable[[], None] | None = None


@dataclass
class Request:
    """A request that came.

    Args:
        method: of HTTP.
        path: with the query.
        token: of the authorization header; empty without one.
        range: of the header of that name.
        host: that it was sent to.
    """

    method: str
    path: str
    token: str
    range: str
    host: str


def route(method: str, pattern: str):
    """Let a method of a handler answer requests whose path fits."""

    def register(function):
        ROUTES.append((method, re.compile(pattern + "$"), function.__name__))
        return function

    return register


class HubHandler(BaseHTTPRequestHandler):
    """Passes a request to the method of its route; `hub` is the server."""

    protocol_version = "HTTP/1.1"
    hub: "HubServer"

    def log_message(self, format, *args):
        """Say nothing on stderr."""

    def dispatch(self):
        """Answer by the first route that fits."""
        address = urlsplit(self.path)
        self.query = parse_qs(address.query)
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        self.fault: Fault | None = None
        self.body: bytes | None = None
        self.hub.requests.append(
            Request(
                self.command,
                self.path,
                self.token,
                self.headers.get("Range", ""),
                self.headers.get("Host", ""),
            )
        )
        try:
            self.fault = self.hub.take_fault(self.command, self.path)
            self.apply_fault()
            self.check_token()
            for method, pattern, name in ROUTES:
                match = pattern.match(address.path)
                if match and (method == self.command or (method, self.command) == ("GET", "HEAD")):
                    parts = {key: unquote(value or "") for key, value in match.groupdict().items()}
                    getattr(self, name)(**parts)
                    return
            raise HubError(404, f"the test's Hub has no {self.command} {self.path}")
        except HubError as error:
            self.read_body()
            headers = {"X-Error-Code": error.code} if error.code else {}
            headers["X-Error-Message"] = error.message
            self.answer({"error": error.message}, error.status, headers)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = dispatch  # noqa: N815

    def apply_fault(self):
        """Do what a test switched on."""
        fault = self.fault
        if fault is None:
            return
        if fault.action is not None:
            fault.action()
        if fault.cut is not None and self.command in ("PUT", "POST"):
            self.rfile.read(min(fault.cut, int(self.headers.get("Content-Length", 0))))
            self.drop()
        if fault.status:
            self.read_body()
            self.answer({"error": fault.message}, fault.status, fault.headers)
            raise BrokenPipeError  # it is answered

    def drop(self):
        """End the connection in the middle."""
        self.close_connection = True
        self.connection.shutdown(2)
        raise BrokenPipeError

    def check_token(self):
        """Reject an unknown token."""
        if self.token and self.token not in TOKENS:
            raise HubError(401, "Invalid credentials in Authorization header")

    def read_body(self) -> bytes:
        """The body of the request, read once."""
        if self.body is None:
            self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return self.body

    def json_body(self) -> dict:
        """The body as JSON."""
        return json.loads(self.read_body())

    def answer(self, content, status: int = 200, headers: dict[str, str] | None = None):
        """Send JSON."""
        body = json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value.encode("ascii", "replace").decode())
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def repository(self, kind: str, repo: str, write: bool = False) -> HubRepository:
        """A repository that the token may see, or write to.

        Raises:
            HubError: it may not, or there is none.
        """
        user, role = TOKENS.get(self.token, ("", ""))
        found = self.hub.store.repositories.get((KINDS.get(kind, kind), repo))
        is_owner = user == repo.split("/")[0]
        if found is None or (found.private and not is_owner):
            raise HubError(404 if self.token else 401, "Repository not found", "RepoNotFound")
        if write and not self.token:
            raise HubError(401, "Invalid username or password.")
        if write and not (is_owner and role == "write"):
            raise HubError(403, f"You don't have the rights to write to {repo}")
        return found
