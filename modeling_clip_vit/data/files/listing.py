"""Which files a path means, of which kind, and which split each belongs to.

One rule for datasets with random access and for streams; docs/data.md states it for users.
"""

import json
import logging
import os.path
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ..columns import find_image_column
from ..decoding import PICTURE_SUFFIXES
from ..errors import DataError
from .hidden import is_hidden
from .patterns import find_files
from .tables import TABLE_SUFFIXES, peek_columns
from .tars import TAR_SUFFIXES

logger = logging.getLogger(__name__)

#: Extensions of picture files that are not supported; a warning names such files.
UNREAD_SUFFIXES = frozenset(
    (
        *(".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".nef", ".orf", ".psd", ".raf"),
        *(".rw2", ".svg"),
    )
)
PARQUET_SUFFIXES = (".parquet", ".pq")
ARROW_SUFFIXES = (".arrow",)
#: Kind of file -> how its name ends.
KINDS: dict[str, tuple[str, ...]] = {
    "parquet": PARQUET_SUFFIXES,
    "arrow": ARROW_SUFFIXES,
    "table": TABLE_SUFFIXES,
    "tars": TAR_SUFFIXES,
    "pictures": tuple(sorted(PICTURE_SUFFIXES)),
}
#: A folder, or a whole word in a file's name, that is one of these names a split.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "eval", "evaluation"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}
#: Name, without its extension, of a metadata table of pictures.
METADATA = "metadata"


@dataclass
class Listing:
    """The files of a dataset on this machine.

    Args:
        kind: `pictures`, `table`, `tars`, `parquet`, `arrow`, `saved` (by `save_to_disk`) or
            `card` (a dataset card says what it is made of).
        place: the folder that names and paths are relative to.
        files: split -> its files; of `saved` and `card` none.
        has_classes: of pictures, whether each lies in a folder that names its class.
        is_named: whether they were named one by one, so that they belong to no split.
        left_out: files that are no part of it, and why.
    """

    kind: str
    place: Path
    files: dict[str, list[Path]] = field(default_factory=dict)
    has_classes: bool = False
    is_named: bool = False
    left_out: list[str] = field(default_factory=list)

    def warn(self):
        """Say what is left out, the first few by name."""
        if self.left_out:
            count = len(self.left_out) - 5
            rest = [f"and {count} more"] if count > 0 else []
            logger.warning("left out of %s: %s", self.place, "; ".join(self.left_out[:5] + rest))


def is_local(path: str) -> bool:
    """Whether a path means files here rather than a dataset on the Hub."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1 or "{" in path
    has_ending = kind_of_file(Path(path)) is not None
    return looks_local or has_ending or Path(path).expanduser().exists()


def list_files(path: str, image_column: str | None = None, within: bool = False) -> Listing:
    """List the files at a path: a folder, a file, or, if neither exists, a pattern.

    Args:
        path: the path or pattern, see `find_files`.
        image_column: image column of tables, if it is known.
        within: leave out links that lead out of a folder, unless it holds nothing else.

    Raises:
        DataError: there is nothing that can be read, or a file that braces name is missing.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return list_folder(place, image_column, within)
    if place.is_file():
        return list_named([place])
    return list_named(find_files(path))


def list_named(files: list[Path]) -> Listing:
    """Files that were named one by one: all of `train`.

    Raises:
        DataError: they are of several kinds, or of one that is not known.
    """
    unknown = next((file for file in files if kind_of_file(file) is None), None)
    if unknown is not None:
        known = ", ".join(end for kind in KINDS if kind != "pictures" for end in KINDS[kind])
        raise DataError(f"{str(unknown)!r} must end in one of {known}, or be a picture")
    check_one_kind(files)
    kind = str(kind_of_file(files[0]))
    place = files[0].parent
    if kind == "pictures":  # in several folders, the names of pictures begin above them
        place = Path(os.path.commonpath([file.parent for file in files]))
    return Listing(kind, place, {"train": files}, is_named=True)


def list_folder(folder: Path, image_column: str | None = None, within: bool = False) -> Listing:
    """What a folder holds, by the first of these that it has: `save_to_disk`, a dataset card,
    metadata of pictures, tars, Parquet, Arrow, tables of paths, pictures.

    Args:
        folder: the folder.
        image_column: image column of tables, if it is known.
        within: leave out links that lead out of it, unless it holds nothing else.

    Raises:
        DataError: none of them.
    """
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        return Listing("saved", folder)
    if has_dataset_card(folder):
        return Listing("card", folder)
    folder = descend(folder)
    # A folder of the Hub's cache has nothing but links out of it.
    files = (list(walk(folder, folder.resolve())) if within else []) or list(walk(folder))
    listing = (
        list_metadata(folder, files)
        or list_shards(folder, files)
        or list_tables(folder, files, image_column)
        or list_pictures(folder, files)
    )
    if listing is None:
        endings = ", ".join(sorted({file.suffix or file.name for file in files})[:10])
        raise DataError(
            f"{str(folder)!r} holds no pictures, tables, tars or Parquet files"
            + (f", only {endings}" if endings else "")
        )
    return listing


def list_metadata(folder: Path, files: list[Path]) -> Listing | None:
    """The metadata of pictures among the files of a folder; None if there is none."""
    metadata = [file for file in files if is_metadata(file, folder)]
    if not metadata:
        return None
    listing = Listing("table", folder, split_by_folder(metadata, folder))
    tables = [file for file in files if kind_of_file(file) == "table"]
    note_left_out(listing, (file for file in tables if file not in metadata))
    return listing


def list_shards(folder: Path, files: list[Path]) -> Listing | None:
    """The tars of a folder, or else its Parquet or Arrow files; None if there are none."""
    for kind in ("tars", "parquet", "arrow"):
        shards = [file for file in files if kind_of_file(file) == kind]
        if shards:
            listing = Listing(kind, folder, split_by_name(shards, folder))
            note_left_out(listing, (file for file in files if kind_of_file(file) != kind))
            return listing
    return None


def list_tables(folder: Path, files: list[Path], image_column: str | None) -> Listing | None:
    """The tables at the top of a folder that have a column of pictures; None if there are none.

    Where there are no picture files, every table is taken.

    Raises:
        DataError: the tables are of several kinds.
    """
    tables = [file for file in files if file.parent == folder and kind_of_file(file) == "table"]
    chosen = [file for file in tables if has_pictures(peek_columns(file), image_column)]
    if not any(kind_of_file(file) == "pictures" for file in files):
        chosen = chosen or tables
    if not chosen:
        return None
    check_one_kind(chosen)
    listing = Listing("table", folder, split_by_name(chosen, folder))
    note_left_out(listing, (file for file in tables if file not in chosen))
    return listing


def has_pictures(kinds: dict[str, str], image_column: str | None) -> bool:
    """Whether a table has a column of pictures."""
    return image_column in kinds if image_column else find_image_column(kinds) is not None


def list_pictures(folder: Path, files: list[Path]) -> Listing | None:
    """The pictures in a folder, by split and class where its folders name them; None if there are
    none.
    """
    pictures = [file for file in files if kind_of_file(file) == "pictures"]
    if not pictures:
        return None
    has_splits = is_split_root(folder, pictures)
    depths = {len(file.relative_to(folder).parts) for file in pictures}
    has_classes = min(depths) > (2 if has_splits else 1)
    listing = Listing("pictures", folder, split_by_folder(pictures, folder), has_classes)
    note_left_out(listing, filter(is_notable, files))
    return listing


def is_notable(file: Path) -> bool:
    """Whether a user may wonder why a file next to images is not read."""
    return file.suffix.lower() in UNREAD_SUFFIXES or kind_of_file(file) not in (None, "pictures")


def note_left_out(listing: Listing, files: Iterable[Path]):
    """Note files that are no part of a dataset."""
    for file in files:
        suffix = file.suffix.lower()
        if suffix in UNREAD_SUFFIXES:
            reason = f"{suffix} is not read: convert it to JPEG or PNG"
        elif listing.kind == "pictures":
            reason = "it has no column of pictures"
        else:
            reason = f"the dataset is read from {listing.kind}"
        listing.left_out.append(f"{file.relative_to(listing.place)} ({reason})")


def descend(folder: Path) -> Path:
    """The folder, or the only folder inside it that holds everything, as in unpacked archives."""
    while True:
        entries = [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
        is_only_folder = len(entries) == 1 and entries[0].is_dir() and not leads_up(entries[0])
        if not is_only_folder or split_of(entries[0].name):
            return folder
        if not any(entry.is_dir() for entry in entries[0].iterdir() if not is_hidden(entry.name)):
            return folder  # it is the only class
        folder = entries[0]


def walk(folder: Path, root: Path | None = None) -> Iterator[Path]:
    """Every file below a folder in order, without those that a system hides.

    Args:
        folder: the folder; a link to a folder that holds the link is not followed.
        root: links that lead out of this resolved folder are not followed; None follows them.
    """
    for entry in sorted(folder.iterdir()):
        if is_hidden(entry.name) or leads_up(entry) or (root and leads_out(entry, root)):
            continue
        if entry.is_dir():
            yield from walk(entry, root)
        elif entry.is_file():
            yield entry


def leads_up(entry: Path) -> bool:
    """Whether a path is a link to a folder that holds the link, which has no end."""
    return entry.is_symlink() and entry.parent.resolve().is_relative_to(os.path.realpath(entry))


def leads_out(entry: Path, root: Path) -> bool:
    """Whether a path is a link out of a resolved folder."""
    return entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(root)


def kind_of_file(file: Path) -> str | None:
    """What a file is, by the end of its name; None for what is not read."""
    name = file.name.lower()
    return next((kind for kind, suffixes in KINDS.items() if name.endswith(suffixes)), None)


def is_metadata(file: Path, folder: Path) -> bool:
    """Whether a file is the metadata of pictures: at the top, or in the folder of a split."""
    if file.stem.lower() != METADATA or kind_of_file(file) not in ("table", "parquet"):
        return False
    inner = file.parent.relative_to(folder).parts
    return not inner or (len(inner) == 1 and split_of(inner[0]) is not None)


def has_dataset_card(folder: Path) -> bool:
    """Whether a README.md says as a dataset card what the folder is made of."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    from huggingface_hub import metadata_load

    try:
        metadata = metadata_load(card) or {}
    except Exception:  # a README is no part of the data, whatever is wrong with it
        return False
    return bool({"configs", "dataset_info"} & set(metadata))


def split_of(name: str) -> str | None:
    """The split that a whole name says, in any case."""
    return SPLIT_WORDS.get(name.lower())


def is_split_root(folder: Path, files: list[Path]) -> bool:
    """Whether every file lies in a folder at the top whose name is a split's.

    One folder called `train` among classes is a class.
    """
    tops = {file.relative_to(folder).parts[0] for file in files}
    lies_deeper = all(len(file.relative_to(folder).parts) > 1 for file in files)
    return lies_deeper and all(split_of(name) for name in tops)


def split_by_folder(files: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Files by the folder at the top that names their split; all `train` where none does."""
    if not is_split_root(folder, files):
        return {"train": files}
    splits: dict[str, list[Path]] = {}
    for file in files:
        name = str(split_of(file.relative_to(folder).parts[0]))
        splits.setdefault(name, []).append(file)
    return splits


def split_by_name(files: list[Path], folder: Path) -> dict[str, list[Path]]:
    """Files by the folder at the top, or by the whole word of their name, that says a split."""
    if is_split_root(folder, files):
        return split_by_folder(files, folder)
    splits: dict[str, list[Path]] = {}
    for file in files:
        words = "".join(c if c.isalpha() else " " for c in file.name.lower()).split()
        named = (split_of(word) for word in words)
        splits.setdefault(next(filter(None, named), None) or "train", []).append(file)
    return splits


def check_one_kind(files: list[Path]):
    """Reject files that do not make one dataset.

    Raises:
        DataError: they end differently, and are neither all tars nor all pictures.
    """
    suffixes = {
        next((end for end in TAR_SUFFIXES if file.name.lower().endswith(end)), file.suffix.lower())
        for file in files
    }
    kinds = {kind_of_file(file) for file in files}
    if len(suffixes) > 1 and kinds not in ({"tars"}, {"pictures"}):
        raise DataError(
            f"{files[0].parent} has files of several kinds ({', '.join(sorted(suffixes))}): name "
            "one, or a pattern of those to read"
        )


def stamps(files: Iterable[Path]) -> str:
    """A fingerprint of files: their names, sizes and modification times."""
    states = ((file, file.stat()) for file in files)
    return json.dumps([(str(file), state.st_size, state.st_mtime_ns) for file, state in states])
