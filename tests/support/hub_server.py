"""A small Hub on this machine, for the real huggingface_hub to talk to.

It speaks what huggingface_hub 2.4 asks while it creates repositories, uploads and downloads, in a
process that has `HF_ENDPOINT` and `HF_HUB_DISABLE_XET=1` in its environment: Xet has servers and a
protocol of its own, LFS is plain HTTP. Files of LFS are downloaded from another host, `localhost`
instead of 127.0.0.1, as those of the Hub are from its network.
"""

import base64
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

from .hub_store import (
    Commit,
    HubError,
    HubRepository,
    HubStore,
    StoredFile,
    describe_commit,
    format_date,
)

KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
#: Who a token belongs to, and what it may do.
TOKENS = {"hf_writer": ("user", "write"), "hf_reader": ("user", "read")}
#: Method, pattern of the path -> the method of `Handler` that answers.
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
        """Let requests fail, see `Fault`."""
        fault = Fault(method, pattern, **fields)
        self.faults.append(fault)
        return fault

    def take_fault(self, method: str, path: str) -> Fault | None:
        """The fault of a request, which is used up by it."""
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


def route(method: str, pattern: str):
    """Let a method of `Handler` answer requests whose path fits."""

    def register(function):
        ROUTES.append((method, re.compile(pattern + "$"), function.__name__))
        return function

    return register


class Handler(BaseHTTPRequestHandler):
    """Answers a request; `hub` is the server."""

    protocol_version = "HTTP/1.1"
    hub: HubServer

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
        """Reject a token that belongs to nobody."""
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

    # Accounts and repositories

    @route("GET", "/api/whoami-v2")
    def whoami(self):
        if not self.token:
            raise HubError(401, "Invalid username or password.")
        user, role = TOKENS[self.token]
        self.answer(
            {
                "type": "user",
                "name": user,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": {"role": role}},
            }
        )

    @route("GET", REPO + r"/auth-check(?P<write>/write)?")
    def auth_check(self, kind, repo, write):
        self.repository(kind, repo, write=bool(write))
        self.answer({})

    @route("POST", "/api/repos/create")
    def create(self):
        request = self.json_body()
        user, role = TOKENS.get(self.token, ("", ""))
        if not user:
            raise HubError(401, "Invalid username or password.")
        owner = request.get("organization") or user
        kind, repo_id = request.get("type", "model"), f"{owner}/{request['name']}"
        if owner != user or role != "write":
            what = f'a {kind} under the namespace "{owner}"'
            raise HubError(403, f"You don't have the rights to create {what}")
        url = f"{self.hub.url}/{PREFIXES[kind]}{repo_id}"
        with self.hub.store.lock:
            if (kind, repo_id) in self.hub.store.repositories:
                message = f"You already created this {kind} repo"
                self.answer({"error": message, "url": url}, 409)
                return
            is_private = request.get("visibility") == "private"
            self.hub.store.create(kind, repo_id, is_private, request)
        self.answer({"url": url, "name": repo_id, "id": repo_id})

    @route("DELETE", "/api/repos/delete")
    def delete(self):
        request = self.json_body()
        repo_id = f"{request.get('organization') or TOKENS[self.token][0]}/{request['name']}"
        found = self.repository(request.get("type", "model"), repo_id, write=True)
        del self.hub.store.repositories[found.kind, found.id]
        self.answer({})

    @route("POST", "/api/validate-yaml")
    def validate_yaml(self):
        content = self.json_body()["content"]
        errors = []
        match = re.match(r"---\n(.*?)\n---", content, re.S)
        try:
            data = yaml.safe_load(match[1]) if match else {}
        except yaml.YAMLError as error:
            data, errors = {}, [{"message": f"bad YAML: {str(error).splitlines()[0]}"}]
        licence = (data or {}).get("license")
        if licence == "made-up":
            errors.append({"message": '"license" must be one of [apache-2.0, mit, other, ...]'})
        self.answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    # Uploads

    @route("POST", REPO + "/preupload/(?P<revision>[^/]+)")
    def preupload(self, kind, repo, revision):
        is_request = "create_pr" in self.query
        files = self.repository(kind, repo, write=not is_request).find(revision).files
        answers = []
        for file in self.json_body()["files"]:
            mode = "lfs" if self.hub.store.is_lfs(file["path"], file["size"]) else "regular"
            known = files.get(file["path"])
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": mode,
                    "shouldIgnore": False,
                    "oid": known.etag if known else None,
                }
            )
        self.answer({"files": answers})

    @route("POST", r"/(?:(?:datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch")
    def lfs_batch(self, repo):
        if not self.token:
            raise HubError(401, "Invalid username or password.")
        answers = []
        for file in self.json_body()["objects"]:
            answer = {"oid": file["oid"], "size": file["size"]}
            if not self.hub.store.path(file["oid"]).is_file():
                answer["actions"] = {
                    "upload": {"href": f"{self.hub.url}/lfs/upload/{file['oid']}"},
                    "verify": {"href": f"{self.hub.url}/lfs/verify"},
                }
            answers.append(answer)
        self.answer({"transfer": "basic", "objects": answers})

    @route("PUT", "/lfs/upload/(?P<oid>[0-9a-f]{64})")
    def lfs_upload(self, oid):
        content = self.read_body()
        if hashlib.sha256(content).hexdigest() != oid:
            raise HubError(400, "the content does not have this hash")
        self.hub.store.path(oid).write_bytes(content)
        self.answer({})

    @route("POST", "/lfs/verify")
    def lfs_verify(self):
        request = self.json_body()
        path = self.hub.store.path(request["oid"])
        if not path.is_file() or path.stat().st_size != request["size"]:
            raise HubError(404, "LFS object not found")
        self.answer({})

    @route("POST", REPO + "/commit/(?P<revision>[^/]+)")
    def commit(self, kind, repo, revision):
        is_request = "create_pr" in self.query
        repository = self.repository(kind, repo, write=not is_request)
        lines = [json.loads(line) for line in self.read_body().splitlines()]
        with self.hub.store.lock:
            parent = repository.find(revision)
            header = lines[0]["value"]
            if header.get("parentCommit") not in (None, parent.oid) and not is_request:
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(parent.files)
            commit = repository.add_commit(
                parent, files, header["summary"], header.get("description", "")
            )
            for line in lines[1:]:
                self.apply(line["key"], line["value"], files, commit)
            address = f"{self.hub.url}/{PREFIXES[repository.kind]}{repo}"
            answer = {
                "success": True,
                "commitOid": commit.oid,
                "commitUrl": f"{address}/commit/{commit.oid}",
            }
            if is_request:
                number = len(repository.pull_requests) + 1
                repository.pull_requests[number] = {"title": commit.title, "head": commit.oid}
                answer["pullRequestUrl"] = f"{address}/discussions/{number}"
            elif revision.startswith("refs/pr/"):
                number = int(revision.rpartition("/")[2])
                repository.pull_requests[number]["head"] = commit.oid
            else:
                repository.branches[revision] = commit.oid
        self.answer(answer)

    def apply(self, key: str, value: dict, files: dict[str, StoredFile], commit: Commit):
        """Make one change of a commit."""
        path = value["path"]
        if key == "file":
            content = base64.b64decode(value["content"])
            files[path] = self.hub.store.store(path, content, commit)
        elif key == "lfsFile":
            files[path] = self.hub.store.refer(value["oid"], commit)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        else:
            for name in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[name]

    # Branches, tags, pull requests

    @route("POST", REPO + "/branch/(?P<branch>[^/]+)")
    def create_branch(self, kind, repo, branch):
        repository = self.repository(kind, repo, write=True)
        if branch in repository.branches:
            raise HubError(409, f"Reference refs/heads/{branch} already exists")
        start = self.json_body().get("startingPoint") or "main"
        repository.branches[branch] = repository.find(start).oid
        self.answer({})

    @route("DELETE", REPO + "/branch/(?P<branch>[^/]+)")
    def delete_branch(self, kind, repo, branch):
        self.repository(kind, repo, write=True).branches.pop(branch)
        self.answer({})

    @route("POST", REPO + "/tag/(?P<revision>[^/]+)")
    def create_tag(self, kind, repo, revision):
        repository = self.repository(kind, repo, write=True)
        tag = self.json_body()["tag"]
        if tag in repository.tags:
            raise HubError(409, f"Tag reference {tag} already exists")
        repository.tags[tag] = repository.find(revision).oid
        self.answer({})

    @route("DELETE", REPO + "/tag/(?P<tag>[^/]+)")
    def delete_tag(self, kind, repo, tag):
        self.repository(kind, repo, write=True).tags.pop(tag)
        self.answer({})

    @route("GET", REPO + "/refs")
    def refs(self, kind, repo):
        repository = self.repository(kind, repo)

        def describe(names, prefix):
            return [
                {"name": name, "ref": f"{prefix}{name}", "targetCommit": oid}
                for name, oid in names.items()
            ]

        requests = {str(n): request["head"] for n, request in repository.pull_requests.items()}
        self.answer(
            {
                "branches": describe(repository.branches, "refs/heads/"),
                "tags": describe(repository.tags, "refs/tags/"),
                "converts": [],
                "pullRequests": describe(requests, "refs/pr/"),
            }
        )

    @route("GET", REPO + "/commits/(?P<revision>[^/]+)")
    def commits(self, kind, repo, revision):
        self.answer(
            [
                {
                    **describe_commit(commit),
                    "message": commit.description,
                    "authors": [{"user": "user"}],
                }
                for commit in self.repository(kind, repo).history(revision)
            ]
        )

    @route("GET", REPO + "/discussions")
    def discussions(self, kind, repo):
        requests = self.repository(kind, repo).pull_requests
        answers = [
            {
                "num": number,
                "title": request["title"],
                "status": "open",
                "author": {"name": "user"},
                "createdAt": format_date_now(),
                "isPullRequest": True,
                "repo": {"name": repo, "type": KINDS[kind]},
            }
            for number, request in requests.items()
        ]
        self.answer({"count": len(answers), "start": 0, "discussions": answers})

    # Reading

    @route("GET", REPO + "(?:/revision/(?P<revision>[^/]+))?")
    def info(self, kind, repo, revision):
        repository = self.repository(kind, repo)
        commit = repository.find(revision or "main")
        answer = {
            "_id": repo,
            "id": repo,
            "sha": commit.oid,
            "private": repository.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "lastModified": format_date(commit.date),
            "createdAt": format_date(commit.date),
            "siblings": [
                {"rfilename": path, "size": file.size, "blobId": file.blob_id}
                for path, file in sorted(commit.files.items())
            ],
        }
        self.answer(answer)

    def describe_file(self, path: str, file: StoredFile, expand: bool) -> dict:
        """A file as listings have it."""
        entry = {"type": "file", "path": path, "size": file.size, "oid": file.blob_id}
        if file.is_lfs:
            entry["lfs"] = {"oid": file.sha256, "size": file.size, "pointerSize": 130}
        if expand:
            entry["lastCommit"] = file.commit
        return entry

    @route("GET", REPO + "/tree/(?P<revision>[^/]+)(?:/(?P<folder>.+))?")
    def tree(self, kind, repo, revision, folder):
        files = self.repository(kind, repo).find(revision).files
        prefix = f"{folder.rstrip('/')}/" if folder else ""
        is_recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        expand = self.query.get("expand", ["false"])[0].lower() in ("true", "1")
        entries, folders = [], set()
        for path, file in sorted(files.items()):
            if not path.startswith(prefix):
                continue
            inner = path[len(prefix) :].split("/")
            folders |= {prefix + "/".join(inner[:depth]) for depth in range(1, len(inner))}
            if is_recursive or len(inner) == 1:
                entries.append(self.describe_file(path, file, expand))
        if prefix and not entries and not folders:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        shown = folders if is_recursive else {f for f in folders if "/" not in f[len(prefix) :]}
        entries += [
            {"type": "directory", "path": path, "size": 0, "oid": "0" * 40}
            for path in sorted(shown)
        ]
        self.answer(entries)

    @route("POST", REPO + "/paths-info/(?P<revision>[^/]+)")
    def paths_info(self, kind, repo, revision):
        files = self.repository(kind, repo).find(revision).files
        body = self.read_body()
        if "json" in self.headers.get("Content-Type", ""):
            request = json.loads(body)
            paths, expand = request["paths"], request.get("expand", False)
        else:
            form = parse_qs(body.decode())
            paths = form.get("paths", [])
            expand = form.get("expand", ["false"])[0].lower() == "true"
        entries = []
        for path in paths:
            if path in files:
                entries.append(self.describe_file(path, files[path], expand))
            elif any(name.startswith(f"{path.rstrip('/')}/") for name in files):
                entries.append({"type": "directory", "path": path, "size": 0, "oid": "0" * 40})
        self.answer(entries)

    @route(
        "GET",
        r"/(?:(?P<kind>datasets|spaces)/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)",
    )
    def resolve(self, kind, repo, revision, path):
        repository = self.repository(kind or "models", repo)
        commit = repository.find(revision)
        headers = {"X-Repo-Commit": commit.oid}
        file = commit.files.get(path)
        if file is None:
            headers |= {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
            self.answer({"error": "Entry not found"}, 404, headers)
            return
        headers["ETag"] = f'"{file.etag}"'
        if not file.is_lfs:
            self.send_file(file, headers)
            return
        headers |= {
            "X-Linked-ETag": f'"{file.sha256}"',
            "X-Linked-Size": str(file.size),
            "Location": f"http://localhost:{self.hub.port}/lfs/download/{file.sha256}?signature=0",
        }
        self.answer({}, 302, headers)

    @route("GET", "/lfs/download/(?P<oid>[0-9a-f]{64})")
    def lfs_download(self, oid):
        path = self.hub.store.path(oid)
        if not path.is_file():
            raise HubError(404, "no such object")
        file = StoredFile(oid, path.stat().st_size, oid, True, {})
        self.send_file(file, {"ETag": f'"{oid}"'})

    def send_file(self, file: StoredFile, headers: dict[str, str]):
        """Send bytes, or the range of them that was asked for."""
        content = self.hub.store.path(file.sha256).read_bytes()
        match = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        status = 200
        if match and content:
            first = int(match[1]) if match[1] else max(0, file.size - int(match[2]))
            last = min(int(match[2]), file.size - 1) if match[1] and match[2] else file.size - 1
            if first >= file.size:
                raise HubError(416, "the range begins after the end")
            headers["Content-Range"] = f"bytes {first}-{last}/{file.size}"
            content, status = content[first : last + 1], 206
        self.send_response(status)
        for name, value in {**headers, "Accept-Ranges": "bytes"}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.fault and self.fault.cut is not None:
            self.wfile.write(content[: self.fault.cut])
            self.drop()
        self.wfile.write(content)


def format_date_now() -> str:
    """Now, as the Hub writes dates."""
    return time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
