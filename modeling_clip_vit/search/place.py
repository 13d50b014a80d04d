"""Where an index lies: a folder, or a prefix of an object store."""

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import Any

from ..utils.folders import replaced_file, replaced_folder, saving

#: How to go on after an index could not be written.
HINT = "what was indexed before is still there, and the next run goes on from it"


class IndexPlace:
    """Reads and writes the small files of an index.

    Args:
        name: a folder, or a URL that both LanceDB and fsspec know, such as `s3://bucket/photos`.
    """

    def __init__(self, name: str):
        self.name = name.rstrip("/") if "://" in name else name
        #: The folder; None for an object store.
        self.folder = None if "://" in name else Path(name).expanduser()

    @property
    def uri(self) -> str:
        """What LanceDB connects to."""
        return str(self.folder) if self.folder is not None else self.name

    @cached_property
    def remote(self) -> tuple[Any, str]:
        """The file system of an object store, and the path in it."""
        from fsspec.core import url_to_fs

        return url_to_fs(self.name)

    @property
    def storage_options(self) -> dict[str, str] | None:
        """What LanceDB needs to reach the store that fsspec is configured for."""
        if self.folder is not None:
            return None
        from fsspec.config import conf

        options = conf.get(self.name.partition("://")[0], {})
        endpoint = options.get("endpoint_url") or os.environ.get("AWS_ENDPOINT_URL")
        if not endpoint:
            return None
        is_plain = endpoint.startswith("http://")
        return {"endpoint": endpoint, "allow_http": str(is_plain).lower()}

    def read(self, name: str) -> bytes | None:
        """The content of a file of the index; None if there is no such file."""
        try:
            if self.folder is not None:
                return (self.folder / name).read_bytes()
            files, path = self.remote
            return files.cat_file(f"{path}/{name}")
        except (FileNotFoundError, NotADirectoryError):
            return None

    def write(self, name: str, content: bytes):
        """Write a file of the index, as a whole or not at all."""
        if self.folder is None:
            files, path = self.remote
            files.pipe_file(f"{path}/{name}", content)
            return
        with saving(self.name, HINT):
            target = self.folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with replaced_file(target) as partial:
                partial.write_bytes(content)

    def list(self, folder: str) -> list[str]:
        """The names of the files in a folder of the index, such as `staging/000001.arrow`."""
        try:
            if self.folder is not None:
                names = [path.name for path in (self.folder / folder).iterdir()]
            else:
                files, path = self.remote
                found = files.ls(f"{path}/{folder}", detail=False, refresh=True)
                names = [name.rpartition("/")[2] for name in found]
        except (FileNotFoundError, NotADirectoryError):
            return []
        return [f"{folder}/{name}" for name in sorted(names) if name]

    def remove(self, name: str):
        """Remove a file of the index."""
        if self.folder is not None:
            (self.folder / name).unlink(missing_ok=True)
            return
        files, path = self.remote
        files.rm(f"{path}/{name}")

    def write_folder(self, name: str, source: Path):
        """Copy a folder into the index; in a folder, as a whole or not at all."""
        if self.folder is None:
            files, path = self.remote
            files.put(f"{source}/", f"{path}/{name}/", recursive=True)
            return
        with saving(self.name, HINT):
            self.folder.mkdir(parents=True, exist_ok=True)
            with replaced_folder(self.folder / name) as partial:
                shutil.copytree(source, partial, dirs_exist_ok=True)

    def local_folder(self, name: str, key: str) -> Path:
        """A folder of the index as one on this machine.

        Args:
            name: of the folder.
            key: what identifies its content: a folder of an object store is downloaded once for
                each key, into the cache below HF_HOME.
        """
        if self.folder is not None:
            return self.folder / name
        from huggingface_hub import constants

        kept = Path(constants.HF_HOME) / "clip-vit" / "index-models" / key[:32]
        if not kept.is_dir():
            files, path = self.remote
            kept.parent.mkdir(parents=True, exist_ok=True)
            with replaced_folder(kept) as partial:
                files.get(f"{path}/{name}/", f"{partial}/", recursive=True)
        return kept
