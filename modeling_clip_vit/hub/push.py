"""Upload a folder to the Hub: the files of its kind, in one commit, over nothing newer."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.lfs import UploadInfo
from huggingface_hub.utils.sha import git_hash

from ..utils.errors import UserError
from .contents import Contents, recognize_names
from .errors import LOG_IN, HubError, hub_errors
from .variant_card import build_variant_cards

#: How the titles of this package's commits end, which tells them from others' edits.
MARK = " (clip-vit)"
#: Title of the commit that the Hub makes with a new repository.
INITIAL = "initial commit"
UNTOUCHED = "the folder on this machine is untouched, and nothing was committed"
#: Files that are asked about at once.
PATHS_AT_ONCE = 500


@dataclass
class PushOptions:
    """Where on the Hub to upload to, and how.

    Args:
        private: create a private repository; by default, models, datasets and pages are public, and
            an index, which has the names and places of pictures, is private. A repository that
            exists stays as it is.
        branch: branch to commit to, made if it does not exist; by default `main`.
        create_pr: open a pull request instead of committing; needs no right to write.
        dry_run: only list the files that would be uploaded; nothing is sent.
        force: also overwrite files that are newer on the Hub, or were edited there by other means,
            and replace a repository of another kind.
        message: title of the commit.
        tag: name for the commit, such as `v1.0`, that `revision=` finds it by.
    """

    private: bool | None = None
    branch: str | None = None
    create_pr: bool = False
    dry_run: bool = False
    force: bool = False
    message: str | None = None
    tag: str | None = None


@dataclass(frozen=True)
class Pushed:
    """What an upload has done.

    Args:
        url: of the commit, or of the pull request.
        repo_id: `user/name`, also where only the name was given.
        commit: its hash.
        uploaded: names of the files that were new or changed.
        deleted: names of the files that were deleted on the Hub.
    """

    url: str
    repo_id: str
    commit: str
    uploaded: list[str]
    deleted: list[str]


def push(
    contents: Contents, repo_id: str, options: PushOptions, known_head: str | None = None
) -> Pushed:
    """Create the repository if there is none, and upload files in one commit.

    The token is that of `hf auth login` or HF_TOKEN.

    Args:
        contents: what goes up; nothing else is uploaded.
        repo_id: `user/name`, or a name of the user's own.
        options: see `PushOptions`.
        known_head: commit that the caller made last; on top of it, no edit of others can be lost.

    Raises:
        HubError: the Hub or the network did not let it happen; nothing was committed.
        UserError: what is on the Hub would be lost, and `force` is not set.
    """
    if options.create_pr and options.branch:
        raise UserError("--create_pr opens a pull request against main: leave out --branch")
    with hub_errors(repo_id, f"uploading to {repo_id!r}", UNTOUCHED):
        if get_token() is None:
            raise HubError(f"there is no token of the Hub: {LOG_IN}")
        repository = open_repository(contents, repo_id, options)
        state = repository.compare(contents)
        if not options.force and not options.create_pr and state.head != known_head:
            state.refuse_loss(contents)
        pushed = repository.commit(contents, state, options)
    if options.tag:
        what = f"naming the commit {pushed.commit[:7]} {options.tag!r}"
        with hub_errors(repo_id, what, f"the upload itself is done: {pushed.url}"):
            repository.api.create_tag(
                pushed.repo_id,
                tag=options.tag,
                revision=pushed.commit,
                repo_type=contents.kind.repo_type,
            )
    return pushed


def open_repository(contents: Contents, repo_id: str, options: PushOptions) -> "Repository":
    """The repository, and the branch in it; both are made if they do not exist."""
    api, kind = HfApi(), contents.kind
    is_private = kind.is_private if options.private is None else options.private
    url = api.create_repo(
        repo_id,
        repo_type=kind.repo_type,
        private=is_private,
        exist_ok=True,
        space_sdk="static" if kind.repo_type == "space" else None,
    )
    branch = options.branch or "main"
    if options.branch:
        api.create_branch(url.repo_id, branch=branch, repo_type=kind.repo_type, exist_ok=True)
    return Repository(api, url.repo_id, kind.repo_type, branch)


@dataclass
class State:
    """How a folder differs from what is on the Hub.

    Args:
        head: commit of the branch.
        changed: names of files that are new or differ.
        cards: name -> text of cards that neither the folder nor the repository has.
        obsolete: names of files to delete.
        newer: name -> why it would be a loss to overwrite or delete it.
        other_kind: what the repository holds instead, with its article.
    """

    head: str
    changed: list[str]
    cards: dict[str, str]
    obsolete: list[str]
    newer: dict[str, str]
    other_kind: str | None

    def refuse_loss(self, contents: Contents):
        """Reject an upload by which something on the Hub would be lost.

        Raises:
            UserError: with what to do.
        """
        if self.other_kind:
            raise UserError(
                f"the repository holds {self.other_kind}, and {str(contents.folder)!r} is "
                f"{contents.kind.title}: choose another name, or pass --force to add it there"
            )
        if self.newer:
            name, reason = next(iter(self.newer.items()))
            others = f" and {len(self.newer) - 1} more files" if len(self.newer) > 1 else ""
            raise UserError(
                f"{name}{others} on the Hub would be overwritten, and {reason}: look at it there, "
                "then pass --force to overwrite it, or --create_pr to propose yours"
            )


@dataclass
class Repository:
    """A branch of a repository on the Hub."""

    api: HfApi
    id: str
    repo_type: str
    branch: str

    def compare(self, contents: Contents) -> State:
        """What would change on the Hub."""
        where: dict[str, Any] = {"repo_type": self.repo_type, "revision": self.branch}
        head = str(self.api.repo_info(self.id, **where).sha)
        names = self.api.list_repo_files(self.id, **where)
        mirrored = tuple(f"{folder}/" for folder in contents.kind.mirrored)
        obsolete = sorted(n for n in set(names) - set(contents.files) if n.startswith(mirrored))
        common = sorted({*contents.files, *obsolete} & set(names))
        entries: dict[str, RepoFile] = {}
        for start in range(0, len(common), PATHS_AT_ONCE):
            paths = common[start : start + PATHS_AT_ONCE]
            found = self.api.get_paths_info(self.id, paths, expand=True, **where)
            entries |= {entry.path: entry for entry in found if isinstance(entry, RepoFile)}
        changed = [
            name
            for name in contents.files
            if name not in entries or is_different(contents.folder / name, entries[name])
        ]
        newer = {}
        for name in (*changed, *obsolete):
            path = contents.folder / name
            reason = why_kept(path, entries[name]) if name in entries else None
            if reason:
                newer[name] = reason
        other = recognize_names(names, self.repo_type)
        cards = {} if "README.md" in names else build_variant_cards(contents, self.id)
        other_kind = None if other is None or other is contents.kind else other.title
        return State(head, changed, cards, obsolete, newer, other_kind)

    def commit(self, contents: Contents, state: State, options: PushOptions) -> Pushed:
        """Upload what differs, in one commit on top of the state that was compared with."""
        operations: list[Any] = [
            CommitOperationAdd(name, contents.folder / name) for name in state.changed
        ]
        operations += [
            CommitOperationAdd(name, text.encode()) for name, text in state.cards.items()
        ]
        operations += [CommitOperationDelete(name, is_folder=False) for name in state.obsolete]
        if not operations:
            prefix = "" if self.repo_type == "model" else f"{self.repo_type}s/"
            url = f"{self.api.endpoint}/{prefix}{self.id}/commit/{state.head}"
            return Pushed(url, self.id, state.head, [], [])
        info = self.api.create_commit(
            self.id,
            operations,
            commit_message=(options.message or f"Upload {contents.kind.title}") + MARK,
            repo_type=self.repo_type,
            revision=None if options.create_pr else self.branch,
            create_pr=options.create_pr,
            parent_commit=state.head,
        )
        url = info.pr_url or info.commit_url
        uploaded = [*state.changed, *state.cards]
        return Pushed(str(url), self.id, info.oid, uploaded, state.obsolete)


def move_tag(repo_id: str, name: str, commit: str):
    """Let a tag of a model name a commit, also if it named another one before.

    Raises:
        HubError: the Hub or the network did not let it happen.
    """
    api = HfApi()
    with hub_errors(repo_id, f"naming the commit {commit[:7]} {name!r}"):
        tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo_id).tags}
        if tags.get(name) == commit:
            return
        if name in tags:
            api.delete_tag(repo_id, tag=name)
        api.create_tag(repo_id, tag=name, revision=commit)


def is_different(path: Path, entry: RepoFile) -> bool:
    """Whether a file differs from what the Hub has under its name."""
    if path.stat().st_size != entry.size:
        return True
    if entry.lfs is not None:
        return UploadInfo.from_path(str(path)).sha256.hex() != entry.lfs.sha256
    return git_hash(path.read_bytes()) != entry.blob_id


def why_kept(path: Path, entry: RepoFile) -> str | None:
    """Why a file on the Hub is not to be overwritten; None if it may be."""
    last = entry.last_commit
    if last is None or last.title == INITIAL:
        return None
    if path.is_file() and last.date > datetime.fromtimestamp(path.stat().st_mtime, UTC):
        return f"it is newer there ({last.title!r}, {last.date:%Y-%m-%d %H:%M} UTC)"
    if not last.title.endswith(MARK):
        return f"was edited there by other means ({last.title!r})"
    return None
