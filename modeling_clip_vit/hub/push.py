"""Upload a finished run to the Hub."""

from pathlib import Path

from huggingface_hub import HfApi

#: What a run keeps for itself: checkpoints to resume from, and logs.
PRIVATE = ("checkpoints", "runs")


def files_to_push(folder: Path) -> list[str]:
    """The files of a run's folder that go up, relative to it."""
    paths = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [str(path) for path in paths if path.parts[0] not in PRIVATE and path.name[0] != "."]


def push(folder: Path, repo_id: str, private: bool = False) -> str:
    """Create the repository if need be and upload; returns the address of the commit."""
    api = HfApi()
    repo_id = api.create_repo(repo_id, exist_ok=True, private=private).repo_id
    commit = api.upload_folder(
        folder_path=folder,
        repo_id=repo_id,
        allow_patterns=files_to_push(folder),
        commit_message="Upload a clip-vit model",
    )
    return str(commit.commit_url)
