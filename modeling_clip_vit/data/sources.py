"""Open an image-text data set with `datasets`, and check that it holds what is asked of it."""

from collections.abc import Iterable
from pathlib import Path

from datasets import (
    ClassLabel,
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Image,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.config import HF_DATASETS_CACHE
from datasets.fingerprint import Hasher


class DataError(ValueError):
    """Something about the data that the user can mend; the message is one clear sentence."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":.") if lines else type(error).__name__


def open_dataset(path: str) -> DatasetDict:
    """Open every split of a data set, its images not yet decoded.

    Args:
        path: a folder that `datasets.load_dataset` or `datasets.load_from_disk` reads, or the id
            of a data set on the Hub.

    Raises:
        DataError: there is no such data set, or it cannot be read.
    """
    looks_local = Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") != 1
    folder = Path(path).expanduser()
    if looks_local and not folder.is_dir():
        raise DataError(f"no folder {path!r} (looked in {Path.cwd()}): give a folder or a Hub id")
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            opened = load_from_disk(str(folder))
            splits = opened if isinstance(opened, DatasetDict) else DatasetDict(train=opened)
        else:
            splits = load_folder(folder) if folder.is_dir() else load_dataset(path)
    except Exception as error:
        hint = "" if folder.is_dir() else f"; there is no folder of that name in {Path.cwd()}"
        raise DataError(f"cannot open the data set {path!r}: {first_line(error)}{hint}") from error
    return DatasetDict({name: keep_encoded(split) for name, split in splits.items()})


def load_folder(folder: Path) -> DatasetDict:
    """Load a local folder as it is now.

    `datasets` caches a folder that has a data set card by its name and the card alone: it would
    give what the files held before they changed, or what another folder of that name holds.
    """
    builder = load_dataset_builder(str(folder))
    return load_dataset(str(folder), cache_dir=cache_for(builder))


def cache_for(builder: DatasetBuilder) -> Path:
    """A cache folder of its own for these very files, at the size and date that they have now."""
    files_by_split = builder.config.data_files or {}
    files = [(name, list(files), files.origin_metadata) for name, files in files_by_split.items()]
    return Path(HF_DATASETS_CACHE) / "clip-vit" / Hasher.hash(files)


def keep_encoded(split: Dataset) -> Dataset:
    """Leave images as encoded bytes: who reads a row decides when, and what a bad one means."""
    for name, feature in split.features.items():
        if isinstance(feature, Image):
            split = split.cast_column(name, Image(decode=False))
    return split


def get_split(splits: DatasetDict, name: str, path: str) -> Dataset:
    """One split by name.

    Raises:
        DataError: there is no such split, or it is empty.
    """
    if name not in splits:
        raise DataError(f"{path!r} has no split {name!r}: it has {', '.join(sorted(splits))}")
    if len(splits[name]) == 0:
        raise DataError(f"split {name!r} of {path!r} is empty")
    return splits[name]


def check_columns(split: Dataset, columns: Iterable[str], path: str):
    """Check that every column is there.

    Raises:
        DataError: one is not; the message lists those that are.
    """
    for column in columns:
        if column not in split.column_names:
            raise DataError(
                f"{path!r} has no column {column!r}: it has {', '.join(split.column_names)}"
            )


def class_names(split: Dataset, column: str, path: str) -> list[str]:
    """The names of a `ClassLabel` column.

    Raises:
        DataError: the column is not one of class labels.
    """
    check_columns(split, [column], path)
    feature = split.features[column]
    if not isinstance(feature, ClassLabel):
        raise DataError(f"column {column!r} of {path!r} holds {feature}, not class labels")
    return feature.names
