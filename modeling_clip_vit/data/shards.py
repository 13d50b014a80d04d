"""Open a data set of any size as shards, each read from its beginning or from any row on."""

import glob
import os.path
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from datasets import ClassLabel, Dataset, IterableDataset, load_dataset_builder, load_from_disk

from .batches import SkippedSample
from .errors import DataError, first_line
from .files import READERS, TAR_SUFFIXES, cache_for, reader_options, suffix_of
from .tars import Row, read_tar

#: Rows that are taken out of an Arrow table at once.
ROWS_AT_ONCE = 64


class Shards(Protocol):
    """The shards of one split of a data set."""

    path: str
    #: Column of class labels -> the names of its classes, as far as they are known beforehand.
    class_names: dict[str, list[str]]

    def __len__(self) -> int: ...

    def read(
        self, shard: int, start: int, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, Row | SkippedSample]]:
        """Wanted rows of a shard with their numbers; what cannot be read is named by a row."""


class TarShards:
    """WebDataset tars, read here: one bad file must not end the others."""

    def __init__(self, path: str, urls: list[str]):
        self.path, self.urls = path, urls
        self.class_names: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self.urls)

    def read(
        self, shard: int, start: int, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, Row | SkippedSample]]:
        """Wanted samples of a tar with their numbers."""
        return read_tar(self.urls[shard], wanted)


class DatasetShards:
    """The shards of what `datasets` streams, such as one parquet file each.

    A class label comes as the name of its class, which says the same in every source.
    """

    def __init__(self, path: str, rows: IterableDataset, files: list[str]):
        self.path = path
        # As Arrow tables, images stay the bytes that they are in the file.
        self.rows = rows.with_format("arrow")
        count = rows.num_shards
        numbered = [f"shard {shard} of {path}" for shard in range(count)]
        is_one_each = len(files) == count
        self.names = files if is_one_each else numbered
        folders = [os.path.dirname(file) for file in files] or [path]
        self.folders = folders if is_one_each else folders[:1] * count
        self.class_names = {
            name: list(feature.names)
            for name, feature in (rows.features or {}).items()
            if isinstance(feature, ClassLabel) and feature.names
        }

    def __len__(self) -> int:
        return len(self.names)

    def read(
        self, shard: int, start: int, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, Row | SkippedSample]]:
        """Wanted rows of a shard with their numbers; a failure ends the shard."""
        # Tables begin at the same rows wherever reading starts, so a failure has one number.
        number = start - start % ROWS_AT_ONCE
        name = PurePosixPath(self.names[shard]).name
        try:
            rows = self.rows.shard(len(self), shard)
            for table in (rows.skip(number) if number else rows).iter(ROWS_AT_ONCE):
                chosen = [at for at in range(len(table)) if wanted(number + at)]
                if len(chosen) < len(table):
                    table_of_chosen = table.take(chosen) if chosen else table.slice(0, 0)
                else:
                    table_of_chosen = table
                for at, columns in zip(chosen, table_of_chosen.to_pylist(), strict=True):
                    for column in self.class_names.keys() & columns.keys():
                        columns[column] = self.name_class(columns[column], column)
                    told = f"{name}, row {number + at}"
                    yield number + at, Row(told, columns, folder=self.folders[shard])
                number += len(table)
        except Exception as error:  # Arrow's, and those of every remote system
            if wanted(number):
                reason = f"the rest cannot be read: {first_line(error)}"
                yield number, SkippedSample(self.names[shard], reason)

    def name_class(self, value: Any, column: str) -> str | None:
        """The name of a class; None where a row has none of those that there are."""
        names = self.class_names[column]
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def open_shards(path: str, split: str, columns: Sequence[str] = ()) -> Shards:
    """Open a split as a stream.

    Args:
        path: a folder that `datasets.load_dataset` or `datasets.load_from_disk` reads, WebDataset
            tars included; a file or a pattern of files (`data/*.tar`), which are then all of the
            split; or the id of a data set on the Hub.
        split: its name.
        columns: those that are needed, or all. A tar shows its columns only when it is read.

    Raises:
        DataError: there is nothing there, it has no such split or column, or cannot be read.
    """
    folder = Path(path).expanduser()
    is_pattern = glob.has_magic(path) or folder.is_file()
    looks_local = folder.exists() or path.startswith((".", "/", "~")) or path.count("/") != 1
    if looks_local and not is_pattern and not folder.is_dir():
        raise DataError(
            f"no folder {path!r} (looked in {Path.cwd()}): give a folder, a pattern of files or a "
            "Hub id"
        )
    try:
        if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
            return open_saved(path, folder, split)
        builder = find_builder(path, folder, is_pattern, split)
        files = [str(file) for file in (builder.config.data_files or {}).get(split, [])]
        if files and all(file.endswith(TAR_SUFFIXES) for file in files):
            return TarShards(path, files)
        rows = builder.as_streaming_dataset(split)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"cannot stream {path!r}: {first_line(error)}") from error
    check_stream_columns(rows, columns, path)
    if columns and hasattr(builder.config, "columns"):
        # The other columns of a parquet file need not even be fetched.
        builder.config.columns = list(dict.fromkeys(columns))
        rows = builder.as_streaming_dataset(split)
    return DatasetShards(path, rows, files)


def find_builder(path: str, folder: Path, is_pattern: bool, split: str) -> Any:
    """What `datasets` would load this with; no data are read yet.

    Raises:
        DataError: no file fits the pattern, or it has no such split.
    """
    if is_pattern:
        suffix = suffix_of(path)
        if suffix not in READERS:
            raise DataError(f"{path!r} must end in one of {', '.join(READERS)}")
        if "://" not in path and not glob.glob(str(folder), recursive=True):
            raise DataError(f"no file fits the pattern {path!r} (looked in {Path.cwd()})")
        return load_dataset_builder(
            READERS[suffix], data_files={split: str(folder)}, **reader_options(suffix)
        )
    local = str(folder) if folder.is_dir() else path
    builder = load_dataset_builder(local)
    if folder.is_dir():
        builder = load_dataset_builder(local, cache_dir=cache_for(builder))
    splits = list(builder.config.data_files or builder.info.splits or {})
    if splits and split not in splits:
        raise DataError(f"{path!r} has no split {split!r}: it has {', '.join(map(str, splits))}")
    return builder


def open_saved(path: str, folder: Path, split: str) -> DatasetShards:
    """What `save_to_disk` wrote, in as many shards as it has files.

    Raises:
        DataError: it has no such split.
    """
    saved = load_from_disk(str(folder))
    splits = {"train": saved} if isinstance(saved, Dataset) else dict(saved)
    if split not in splits:
        raise DataError(f"{path!r} has no split {split!r}: it has {', '.join(sorted(splits))}")
    rows = splits[split]
    count = max(1, min(len(rows.cache_files), len(rows)))
    return DatasetShards(path, rows.to_iterable_dataset(num_shards=count), [])


def check_stream_columns(rows: IterableDataset, columns: Sequence[str], path: str):
    """Check columns as far as the stream knows them.

    Raises:
        DataError: one is not there; the message lists those that are.
    """
    known = rows.column_names
    for column in columns:
        if known is not None and column not in known:
            raise DataError(f"{path!r} has no column {column!r}: it has {', '.join(known)}")
