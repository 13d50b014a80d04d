"""Upload a finished run to the Hub."""

from collections.abc import Iterable
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi


def push(folder: Path, repo_id: str, files: Iterable[str], private: bool = False) -> str:
    """Create the repository if need be and upload files in one commit.

    Args:
        folder: of the files.
        repo_id: `user/name`.
        files: paths to upload, relative to the folder; nothing else is uploaded.
        private: whether a new repository is private.

    Returns:
        The address of the commit.
    """
    api = HfApi()
    repo_id = api.create_repo(repo_id, exist_ok=True, private=private).repo_id
    operations = [CommitOperationAdd(Path(name).as_posix(), folder / name) for name in files]
    message = "Upload a clip-vit model"
    return str(api.create_commit(repo_id, operations, commit_message=message).commit_url)
