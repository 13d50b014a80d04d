"""An index that lies on the Hub, as `clip-vit push` puts it there."""

from pathlib import Path

from .settings import SETTINGS_FILE, PictureIndexError


def download_index(repository: str) -> Path:
    """Download an index into the Hub's cache, or find it there.

    Args:
        repository: `user/name` of a dataset on the Hub.

    Returns:
        A folder to read from; what changes there is not uploaded.

    Raises:
        UserError: there is no such dataset, it holds no index, or the Hub cannot be reached.
    """
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    from ..hub.errors import hub_errors

    hint = f"there is no folder of that name in {Path.cwd()} either"
    files = [SETTINGS_FILE, "pictures.lance/*", "model/*"]
    with hub_errors(repository, f"downloading the index {repository!r}", hint):
        try:
            hf_hub_download(repository, SETTINGS_FILE, repo_type="dataset")
            return Path(snapshot_download(repository, repo_type="dataset", allow_patterns=files))
        except RemoteEntryNotFoundError as error:
            raise PictureIndexError(
                f"{repository!r} on the Hub is a dataset, but not an index"
            ) from error
        except LocalEntryNotFoundError as error:
            raise PictureIndexError(
                f"there is no index in {repository!r}: the Hub cannot be reached, and {hint}"
            ) from error
