"""What a Hub keeps: repositories with commits, branches, tags and pull requests; files by hash."""

import hashlib
import threading
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatch
from pathlib import Path

#: Names of files that the Hub keeps in LFS, however small.
LFS_PATTERNS = ("*.safetensors", "*.bin", "*.onnx", "*.parquet", "*.png", "*.arrow", "*.tar")
#: Other files are regular up to this size in bytes.
LARGEST_REGULAR = 10_000_000


class HubError(Exception):
    """What the Hub answers with a status other than 200.

    Args:
        status: of HTTP.
        message: for a reader.
        code: `X-Error-Code`, which the client tells errors apart by.
    """

    def __init__(self, status: int, message: str, code: str = ""):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit.

    Args:
        sha256: of its bytes, by which they are stored.
        size: in bytes.
        blob_id: git's hash of a regular file, and of the pointer to one in LFS.
        is_lfs: whether it is in LFS.
        commit: that wrote it last: its hash, title and date.
    """

    sha256: str
    size: int
    blob_id: str
    is_lfs: bool
    commit: dict

    @property
    def etag(self) -> str:
        """What `resolve` and `preupload` call this content."""
        return self.sha256 if self.is_lfs else self.blob_id


@dataclass
class Commit:
    """A state of all files."""

    oid: str
    title: str
    description: str
    date: datetime
    files: dict[str, StoredFile]
    parent: str | None = None


@dataclass
class HubRepository:
    """A repository of models, of a dataset, or of a Space.

    Args:
        kind: `model`, `dataset` or `space`.
        id: `user/name`.
        private: whether only its owner sees it.
        request: what it was created with.
    """

    kind: str
    id: str
    private: bool = False
    request: dict = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    pull_requests: dict[int, dict] = field(default_factory=dict)

    def find(self, revision: str) -> Commit:
        """The commit of a branch, a tag, a pull request or a hash.

        Raises:
            HubError: there is none.
        """
        oid = self.branches.get(revision) or self.tags.get(revision)
        if revision.startswith("refs/pr/"):
            request = self.pull_requests.get(int(revision.rpartition("/")[2]))
            oid = request["head"] if request else None
        matches = [known for known in self.commits if len(revision) >= 7 and known[:40] == revision]
        oid = oid or next(iter(matches), None)
        if oid is None:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def add_commit(
        self, parent: Commit | None, files: dict[str, StoredFile], title: str, description: str = ""
    ) -> Commit:
        """A new commit, which no branch has yet."""
        date = datetime.now(UTC)
        identity = repr([parent and parent.oid, title, date, len(self.commits), sorted(files)])
        oid = hashlib.sha1(identity.encode()).hexdigest()
        commit = Commit(oid, title, description, date, files, parent.oid if parent else None)
        self.commits[oid] = commit
        return commit

    def history(self, revision: str) -> list[Commit]:
        """Commits from the newest one."""
        commit: Commit | None = self.find(revision)
        commits = []
        while commit is not None:
            commits.append(commit)
            commit = self.commits[commit.parent] if commit.parent else None
        return commits


class HubStore:
    """All repositories, and the bytes of their files in a folder.

    Args:
        folder: for the bytes, one file per hash.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.repositories: dict[tuple[str, str], HubRepository] = {}
        self.lock = threading.RLock()

    def create(self, kind: str, repo_id: str, private: bool, request: dict) -> HubRepository:
        """A new repository, with the commit that the Hub makes itself."""
        repository = HubRepository(kind, repo_id, private, request)
        attributes = b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"
        commit = repository.add_commit(None, {}, "initial commit")
        commit.files[".gitattributes"] = self.store(".gitattributes", attributes, commit)
        repository.branches["main"] = commit.oid
        self.repositories[kind, repo_id] = repository
        return repository

    def path(self, sha256: str) -> Path:
        """Where bytes are, or would be."""
        return self.folder / sha256

    def is_lfs(self, path: str, size: int) -> bool:
        """Whether a file is to go to LFS."""
        name = path.rpartition("/")[2]
        return size > LARGEST_REGULAR or any(fnmatch(name, pattern) for pattern in LFS_PATTERNS)

    def store(self, path: str, content: bytes, commit: Commit) -> StoredFile:
        """Keep a regular file."""
        sha256 = hashlib.sha256(content).hexdigest()
        self.path(sha256).write_bytes(content)
        blob = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
        return StoredFile(sha256, len(content), blob, False, describe_commit(commit))

    def refer(self, sha256: str, commit: Commit) -> StoredFile:
        """A file of LFS whose bytes are here already.

        Raises:
            HubError: they are not.
        """
        if not self.path(sha256).is_file():
            raise HubError(400, f"Your push was rejected because LFS object {sha256} is missing")
        size = self.path(sha256).stat().st_size
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
        blob = hashlib.sha1(f"blob {len(pointer)}\0{pointer}".encode()).hexdigest()
        return StoredFile(sha256, size, blob, True, describe_commit(commit))

    def write(self, kind: str, repo_id: str, files: dict[str, bytes], title: str = "Edit") -> str:
        """Commit files as another user of the Hub would; returns the hash of the commit."""
        repository = self.repositories[kind, repo_id]
        parent = repository.find("main")
        commit = repository.add_commit(parent, dict(parent.files), title)
        for path, content in files.items():
            commit.files[path] = self.store(path, content, commit)
        repository.branches["main"] = commit.oid
        return commit.oid

    def read(self, kind: str, repo_id: str, path: str, revision: str = "main") -> bytes:
        """The bytes of a file."""
        file = self.repositories[kind, repo_id].find(revision).files[path]
        return self.path(file.sha256).read_bytes()

    def names(self, kind: str, repo_id: str, revision: str = "main") -> list[str]:
        """The files of a repository, without the Hub's own."""
        files = self.repositories[kind, repo_id].find(revision).files
        return sorted(set(files) - {".gitattributes"})


def describe_commit(commit: Commit) -> dict:
    """A commit as a listing of files names it."""
    return {"id": commit.oid, "title": commit.title, "date": format_date(commit.date)}


def format_date(date: datetime) -> str:
    """A date as the Hub writes it."""
    return date.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
