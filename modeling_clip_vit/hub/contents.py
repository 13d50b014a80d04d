"""What a folder is to the Hub: its kind, and exactly the files of it that go up.

Nothing is uploaded just because it is there: a kind names its files, and whatever else is in the
folder (checkpoints to resume from, logs of trackers, data, `.env`) stays on this machine.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from ..utils.errors import UserError

#: Cards and licences, which every kind has.
PROSE = ("README.md", "README.*.md", "LICENSE*", "LICENCE*", "NOTICE*")
CONFIGURATION = (
    *("config.json", "generation_config.json", "*processor_config.json", "chat_template.*"),
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
    *("open_clip_config.json", "sentencepiece*.model", "spiece.model"),
)
WEIGHTS = ("*model*.safetensors", "*model*.safetensors.index.json")
#: What a run says about the model that it trained.
REPORTS = (
    *("metrics.json", "training_log.jsonl", "quantization.json", "conversion.json"),
    *("training_curves.png", "retrieval.png", "wise_ft.png"),
)
#: Files of a dataset besides images and tables.
DATASET_FILES = ("*.json", "*.txt", "licenses/*", "licences/*")
#: Marks a checkpoint to resume from, and a folder of `save_as`.
PROGRESS_FILE, RECORD_FILE = "progress.json", "conversion.json"
#: How a token of the Hub looks.
TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{30,}\b")
#: Files that may hold one are texts, and not larger than this in bytes.
LARGEST_TEXT = 20_000_000


@dataclass(frozen=True)
class Kind:
    """A kind of folder.

    Args:
        name: such as `checkpoint`.
        title: with its article, for messages.
        repo_type: the repository that it is kept in: `model`, `dataset` or `space`.
        marks: patterns of names that tell it from the kinds listed after it, in a folder and in a
            repository.
        list_files: the files that go up, relative to the folder.
        mirrored: folders in it whose files belong together: what is no longer there is deleted on
            the Hub, too.
        is_private: whether a new repository is private unless told otherwise.
        has_written_card: whether a card is written for it where it has none.
    """

    name: str
    title: str
    repo_type: str
    marks: tuple[str, ...]
    list_files: Callable[[Path], Iterable[str]]
    mirrored: tuple[str, ...] = ()
    is_private: bool = False
    has_written_card: bool = True

    def has_marks(self, folder: Path) -> bool:
        """Whether a folder has all files that tell this kind."""
        return all(any(folder.glob(mark)) for mark in self.marks)


@dataclass
class Contents:
    """The part of a folder that is uploaded.

    Args:
        folder: on this machine.
        kind: of the folder.
        files: their paths, relative to it, with `/`.
        left_out: what stays, by its name in the folder.
    """

    folder: Path
    kind: Kind
    files: list[str]
    left_out: list[str] = field(default_factory=list)

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        return (self.folder / name).stat().st_size

    def describe(self) -> str:
        """The list of what goes up, and of what stays."""
        lines = [f"  {name}  ({format_size(self.size(name))})" for name in self.files]
        total = format_size(sum(map(self.size, self.files)))
        lines.append(f"{len(self.files)} files, {total}")
        if "README.md" not in self.files and self.kind.has_written_card:
            lines.append("and a short card, README.md in English and Chinese, if there is none")
        if self.left_out:
            lines.append(f"not uploaded: {', '.join(self.left_out)}")
        return "\n".join(lines)


def read_contents(folder: Path, names: Iterable[str] | None = None) -> Contents:
    """Choose the files of a folder that are uploaded.

    Args:
        folder: a checkpoint, export, adapter, index, static page or dataset.
        names: the files, if what wrote them knows them; by default those of the folder's kind.

    Raises:
        UserError: it is no such folder, or a file would make a token public.
    """
    kind = recognize(folder)
    names = kind.list_files(folder) if names is None else names
    files = sorted({Path(name).as_posix() for name in names})
    tops = {name.split("/")[0] for name in files}
    others = (path for path in sorted(folder.iterdir()) if path.name not in tops)
    left_out = [f"{path.name}/" if path.is_dir() else path.name for path in others]
    contents = Contents(folder, kind, files, left_out)
    check_secrets(contents)
    return contents


def recognize(folder: Path) -> Kind:
    """The kind of a folder.

    Raises:
        UserError: it is none that can be uploaded.
    """
    if not folder.is_dir():
        raise UserError(f"no folder {str(folder)!r} (looked in {Path.cwd()})")
    for kind in KINDS:
        if kind.has_marks(folder):
            return kind
    if any(list_dataset(folder)):
        return DATASET
    raise UserError(
        f"{str(folder)!r} is nothing that can be uploaded: it must be "
        f"{', '.join(kind.title for kind in KINDS)} or {DATASET.title}"
    )


def recognize_names(names: Sequence[str], repo_type: str) -> Kind | None:
    """The kind of a repository, by the names of its files; None if it is empty or of another."""
    for kind in KINDS:
        if all(any(fnmatch(name, mark) for name in names) for mark in kind.marks):
            return kind
    if repo_type == "dataset" and any(name.lower().endswith(data_endings()) for name in names):
        return DATASET
    return None


def check_secrets(contents: Contents):
    """Reject a folder whose files have a token of the Hub in them.

    Raises:
        UserError: with the name of the file, not with the token.
    """
    from huggingface_hub import get_token

    own = get_token()
    for name in contents.files:
        path = contents.folder / name
        text = read_text(path)
        if TOKEN.search(text) or (own and own in text):
            raise UserError(
                f"{str(path)!r} contains a token of the Hub, and would make it public: remove it "
                "from the file, and revoke it on the Hub if anyone else has seen the file"
            )


def read_text(path: Path) -> str:
    """The content of a text file; empty for any other, and for a very large one."""
    if path.stat().st_size > LARGEST_TEXT:
        return ""
    with path.open("rb") as file:
        head = file.read(1024)
        return "" if b"\0" in head else (head + file.read()).decode("utf-8", "replace")


def list_model(folder: Path) -> Iterator[str]:
    """A model with its code, and the models within its folder, such as its adapter."""
    yield from match(folder, (*CONFIGURATION, *WEIGHTS, *REPORTS, *PROSE))
    yield from list_code(folder)
    for inner in sorted(path for path in folder.iterdir() if path.is_dir()):
        if not is_hidden(inner.name) and not inner.is_symlink():
            yield from (f"{inner.name}/{name}" for name in list_inner(inner))


def list_inner(folder: Path) -> Iterable[str]:
    """The files to upload from a folder within a model's; none from a checkpoint to resume from."""
    if (folder / PROGRESS_FILE).exists():
        return ()
    if (folder / RECORD_FILE).is_file():
        return list_model(folder)
    kinds = (EXPORT, ADAPTER, CHECKPOINT)
    kind = next((kind for kind in kinds if kind.has_marks(folder)), None)
    return kind.list_files(folder) if kind else ()


def list_code(folder: Path) -> Iterator[str]:
    """The Python files that `trust_remote_code=True` runs: of `auto_map`, and what they import."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    pending = {str(name).split(".")[0] for name in (config.get("auto_map") or {}).values()}
    known: set[str] = set()
    while pending:
        module = pending.pop()
        path = folder / f"{module}.py"
        if module in known or not path.is_file():
            continue
        known.add(module)
        yield path.name
        imports = re.findall(r"^\s*from \.(\w+) import", path.read_text(encoding="utf-8"), re.M)
        pending |= set(imports)


def list_export(folder: Path) -> Iterator[str]:
    """What the list of an export names, and the list.

    Raises:
        UserError: a file of it is missing.
    """
    try:
        listed = json.loads((folder / "export.json").read_text(encoding="utf-8"))["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{str(folder / 'export.json')!r} is damaged: export it again") from error
    missing = [name for name in listed if not (folder / name).is_file()]
    if missing:
        raise UserError(f"the export {str(folder)!r} lacks {missing[0]}: export it again")
    yield from ("export.json", *listed)
    yield from match(folder, PROSE)


def list_adapter(folder: Path) -> Iterator[str]:
    """An adapter as PEFT saves it."""
    yield from match(folder, ("adapter_config.json", "adapter_model*.safetensors", *PROSE))


def list_index(folder: Path) -> Iterator[str]:
    """An index of pictures: its settings, its table and its model."""
    yield from match(folder, ("index.json", *PROSE))
    yield from list_tree(folder, ("pictures.lance", "model"))


def list_site(folder: Path) -> Iterator[str]:
    """A static page, whole."""
    yield from match(folder, ("*",))
    inner = sorted(path.name for path in folder.iterdir() if path.is_dir())
    yield from list_tree(folder, inner)


def list_dataset(folder: Path) -> Iterator[str]:
    """A dataset: images, tables and tars, their card and licences."""
    yield from match(folder, PROSE)
    for name in list_tree(folder, (".",)):
        is_data = name.lower().endswith(data_endings())
        if is_data or any(fnmatch(name, pattern) for pattern in DATASET_FILES):
            yield name


@cache
def data_endings() -> tuple[str, ...]:
    """How the names of a dataset's files may end."""
    from ..data.files.listing import KINDS as DATA_KINDS  # brings `datasets` with it

    return tuple(ending for endings in DATA_KINDS.values() for ending in endings)


def match(folder: Path, patterns: Iterable[str]) -> Iterator[str]:
    """Names of files directly in a folder."""
    for pattern in patterns:
        for path in folder.glob(pattern):
            if path.is_file() and not is_hidden(path.name):
                yield path.name


def list_tree(folder: Path, names: Iterable[str]) -> Iterator[str]:
    """The files below some folders within one, without hidden ones and links to elsewhere."""
    for name in names:
        for path in sorted((folder / name).rglob("*")):
            parts = path.relative_to(folder).parts
            if path.is_file() and not any(map(is_hidden, parts)) and not leads_out(path, folder):
                yield "/".join(parts)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is never shared: hidden, a cache or a secret."""
    return name.startswith(".") or name == "__pycache__" or name.endswith((".env", ".pem", ".key"))


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path, its links followed, is outside a folder."""
    return not path.resolve().is_relative_to(folder.resolve())


def format_size(size: int) -> str:
    """A number of bytes as people read it."""
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size} bytes"


EXPORT = Kind("export", "an export", "model", ("export.json",), list_export)
ADAPTER = Kind("adapter", "an adapter", "model", ("adapter_config.json",), list_adapter)
INDEX = Kind(
    "index",
    "an index of pictures",
    "dataset",
    ("index.json", "pictures.lance*"),
    list_index,
    mirrored=("pictures.lance", "model"),
    is_private=True,
)
SITE = Kind(
    "page",
    "a static page",
    "space",
    ("index.html", "data*"),
    list_site,
    mirrored=("data", "model", "vendor"),
    has_written_card=False,
)
CHECKPOINT = Kind(
    "checkpoint", "a checkpoint", "model", ("config.json", "*model*.safetensors"), list_model
)
#: Such as one for open_clip, whose configuration has another name.
PEER = Kind("peer", "a converted model", "model", ("*model*.safetensors",), list_model)
DATASET = Kind("dataset", "a dataset", "dataset", (), list_dataset, has_written_card=False)
#: The kinds that are recognised by their marks, in the order in which they are tried.
KINDS = (EXPORT, ADAPTER, INDEX, SITE, CHECKPOINT, PEER)
