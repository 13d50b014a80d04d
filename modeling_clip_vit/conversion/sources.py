"""Where a checkpoint is: a folder, a file of weights in one, or a repository on the Hub."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from ..hub.base_model import BaseModel
from ..inference.exported import EXPORT_FILE
from ..utils.folders import is_disk_full
from ..utils.from_pretrained import LoadError, loading
from ..utils.hub_ids import is_hub_id

#: What the peers write before the id of a repository, and before a folder.
HUB_PREFIX, FOLDER_PREFIX = "hf-hub:", "local-dir:"
#: Configuration files, of which a checkpoint has at least one.
OPEN_CLIP_CONFIG, CONFIG = "open_clip_config.json", "config.json"
#: Everything of a repository but the weights: configuration, tokenizer, card.
SMALL_FILES = ["*.json", "*.txt", "*.model", "README.md"]
#: Weights of a repository, the first patterns that match. One may hold them in several forms.
OPEN_CLIP_WEIGHTS = ("open_clip_model*.safetensors", "open_clip_pytorch_model*.bin")
WEIGHTS = ("model*.safetensors", "pytorch_model*.bin")
#: Files of a folder that tell whether its model is still the same.
SUFFIXES = {".bin", ".json", ".model", ".pt", ".pth", ".safetensors", ".txt"}


@dataclass(frozen=True)
class Source:
    """A checkpoint on this machine; of a repository on the Hub, all but the weights.

    Args:
        name: as the user wrote it.
        path: its folder, or the file of weights that was named.
        repository: id on the Hub; empty for what is local.
        commit: of the repository.
    """

    name: str
    path: Path
    repository: str = ""
    commit: str = ""

    @property
    def folder(self) -> Path:
        """Where its configuration is."""
        return self.path.parent if self.path.is_file() else self.path

    def as_it_is(self) -> str:
        """What loads it without converting it: its name, unless that has a prefix.

        An export is loaded from a folder alone, so its repository is downloaded.
        """
        if self.repository and (self.folder / EXPORT_FILE).is_file():
            fetch(self.repository, self.commit, ["*"])
            return str(self.path)
        if not self.name.startswith((HUB_PREFIX, FOLDER_PREFIX)):
            return self.name
        self.fetch_weights()
        return str(self.path)

    def identity(self) -> dict:
        """What is another if the model is: a commit, or names, sizes and times of the files."""
        if self.repository:
            return {"repository": self.repository, "commit": self.commit}
        files = [file for file in sorted(self.folder.iterdir()) if file.suffix in SUFFIXES]
        stats = {file.name: file.stat() for file in files if file.is_file()}
        return {
            "path": str(self.path.resolve()),
            "files": {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()},
        }

    def fetch_weights(self):
        """Download the weights of a repository, safetensors if it has them.

        Raises:
            LoadError: the Hub cannot be reached, and they are not in its cache.
        """
        if not self.repository:
            return
        is_open_clip = (self.folder / OPEN_CLIP_CONFIG).is_file()
        for pattern in OPEN_CLIP_WEIGHTS if is_open_clip else WEIGHTS:
            if not any(self.folder.glob(pattern)):
                fetch(self.repository, self.commit, [pattern])
            if any(self.folder.glob(pattern)):
                return


def find_source(name: str) -> Source | None:
    """A checkpoint, by what names it; None where it can be none.

    Args:
        name: a folder, a file of weights in one, or the id of a repository on the Hub, with or
            without the prefixes of open_clip and timm, such as `hf-hub:user/name@revision`.

    Raises:
        LoadError: a repository cannot be reached, and is not in the Hub's cache either.
    """
    path = Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    if path.is_file() or path.is_dir():
        return Source(name, path)
    repository, revision = hub_id(name)
    if not repository or path.exists():
        return None
    folder = fetch(repository, revision or None, SMALL_FILES)
    return Source(name, folder, repository, folder.name)


def hub_id(name: str) -> tuple[str, str]:
    """The repository and the revision that a name has the form of; empty where it has none."""
    repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    return (repository, revision) if is_hub_id(repository) else ("", "")


def repository_of(name: str) -> str:
    """The id on the Hub that names a checkpoint; empty for a folder of this machine."""
    path = Path(name.removeprefix(FOLDER_PREFIX)).expanduser()
    return "" if path.exists() else hub_id(name)[0]


def read_base(name: str) -> BaseModel:
    """What a card says of a model that a run started from.

    Raises:
        UserError: the repository cannot be reached any more.
    """
    source = find_source(name)
    if source is None:
        return BaseModel(name)
    card = source.folder / "README.md"
    licence = ModelCard.load(card).data.license if card.is_file() else None
    return BaseModel(name, source.repository, licence)


def fetch(repository: str, revision: str | None, patterns: list[str]) -> Path:
    """Download some files of a repository, unless they are in the Hub's cache.

    Returns:
        The snapshot, a folder with the name of its commit.

    Raises:
        LoadError: the Hub cannot be reached, and the cache has no snapshot.
    """
    with loading(repository):
        try:
            return Path(snapshot_download(repository, revision=revision, allow_patterns=patterns))
        except OSError as error:
            if is_disk_full(error):
                raise
            if isinstance(error, RepositoryNotFoundError):
                refuse_other_types(repository)
            # What another program downloaded is enough, even if the Hub has further files.
            for name in (OPEN_CLIP_CONFIG, CONFIG):
                file = try_to_load_from_cache(repository, name, revision=revision)
                if isinstance(file, str):
                    return Path(file).parent
            is_unreachable = isinstance(error, LocalEntryNotFoundError)
            reason = "cannot be reached" if is_unreachable else "does not give it"
            raise LoadError(
                f"cannot load {repository!r}: there is no folder of that name in {Path.cwd()}"
                f"{similar_folder(repository)}, and the Hub {reason}: {first_sentence(error)}"
            ) from error


def refuse_other_types(repository: str):
    """Say of a name that it is no model, but a dataset or a Space.

    Raises:
        LoadError: it is one.
    """
    for repo_type in ("dataset", "space"):
        if HfApi().repo_exists(repository, repo_type=repo_type):
            raise LoadError(f"{repository!r} is a {repo_type}, and this needs a model")


def similar_folder(path: str) -> str:
    """A folder whose name is nearly that of one that does not exist, as the end of a sentence."""
    folder = Path(path)
    if not folder.parent.is_dir():
        return ""
    names = [one.name for one in folder.parent.iterdir() if one.is_dir()]
    close = get_close_matches(folder.name, names, n=1)
    return f" (did you mean {str(folder.parent / close[0])!r}?)" if close else ""


def first_sentence(error: Exception) -> str:
    """The beginning of an error of the Hub, which adds advice and links to it."""
    line = str(error).strip().split("\n")[0].removeprefix("Got: ")
    return line.split(". ")[0].rstrip(".:")
