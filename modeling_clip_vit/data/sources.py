"""Open an image-text data set with `datasets`, and check that it holds what is asked of it."""

import re
from collections.abc import Iterable
from pathlib import Path

from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Image,
    load_dataset,
)
from datasets.config import HF_DATASETS_CACHE
from datasets.fingerprint import Hasher


class DataError(ValueError):
    """Something about the data that the user can mend; the message is one clear sentence."""


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(":.") if lines else type(error).__name__


def open_dataset(path: str, image_column: str | None = None) -> DatasetDict:
    """Open every split of a data set, its images not yet decoded.

    Args:
        path: a folder of images, of parquet, of CSV, TSV or JSON lines, of WebDataset tars, or one
            that `Dataset.save_to_disk` wrote; one such file, or a pattern of them (`data/*.csv`),
            which are then all `train`; or the id of a data set on the Hub.
        image_column: the column of images. Where it holds texts, they are paths relative to the
            files, or base64. None for a guess.

    Raises:
        DataError: there is no such data set, or it cannot be read.
    """
    from .files import is_local, open_local  # which builds on this file

    here = is_local(path)
    try:
        splits = open_local(path, image_column) if here else load_dataset(path)
    except DataError:
        raise
    except Exception as error:
        hint = "" if here else f"; there is no folder of that name in {Path.cwd()}"
        reason = first_line(error.__cause__ or error)  # type: ignore[arg-type]
        # As `datasets` says it of a split without rows.
        if empty := re.search('Instruction "(.*)" corresponds to no data', reason):
            raise DataError(f"split {empty[1]!r} of {path!r} is empty") from error
        raise DataError(f"cannot open the data set {path!r}: {reason}{hint}") from error
    return DatasetDict({name: keep_encoded(split) for name, split in splits.items()})


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


def get_split(splits: DatasetDict, name: str, path: str, hint: str = "") -> Dataset:
    """One split by name; the hint ends the message where it is not there.

    Raises:
        DataError: there is no such split, or it is empty.
    """
    if name not in splits:
        raise DataError(f"{path!r} has no split {name!r}: it has {', '.join(sorted(splits))}{hint}")
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
