"""What a small Hub answers about files: uploads, by LFS or not, commits, listings, downloads."""

import base64
import hashlib
import json
import re
from urllib.parse import parse_qs

from .hub_http import PREFIXES, REPO, HubHandler, route
from .hub_store import Commit, HubError, StoredFile, format_date


class FileAnswers(HubHandler):
    """Uploads and commits; listings and downloads."""

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
