"""Open a dataset of any size as shards, each read from its beginning or from any row on."""

import os.path
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from datasets import ClassLabel, Dataset, IterableDataset, load_dataset_builder, load_from_disk

from ..utils.errors import first_line
from ..utils.resources import find_data
from .columns import refuse_missing_columns
from .errors import DataError
from .listing import Listing, is_local, list_files
from .readers import LABEL, class_names, read_file, read_table_rows, table_columns
from .rows import Row, SkippedSample
from .sources import cache_for, refuse_missing_split
from .tars import TAR_SUFFIXES, read_tar

#: Reader of `datasets` -> the endings of files that it streams from another system.
REMOTE_KINDS = {
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow",),
    "csv": (".csv", ".tsv"),
    "json": (".json", ".jsonl", ".ndjson"),
    "webdataset": TAR_SUFFIXES,
}
#: Rows that are taken out of an Arrow table at once.
ROWS_AT_ONCE = 64


class Shards(Protocol):
    """The shards of one split of a dataset."""

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


class TableShards:
    """Tables of any form, a shard each; a row that cannot be read does not end the others."""

    def __init__(self, path: str, files: list[Path], image_column: str | None):
        self.path, self.files, self.image_column = path, files, image_column
        self.class_names: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return len(self.files)

    def read(
        self, shard: int, start: int, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, Row | SkippedSample]]:
        """Wanted rows of a table with their numbers."""
        for number, row in read_table_rows(self.files[shard], self.image_column):
            if wanted(number):
                yield number, row


class PictureShards:
    """Image files, a fixed number per shard, with the classes that their folders name."""

    size = 256

    def __init__(self, path: str, listing: Listing, files: list[Path]):
        self.path, self.listing, self.files = path, listing, files
        names = class_names(listing)
        self.class_names = {LABEL: names} if names else {}

    def __len__(self) -> int:
        return -(-len(self.files) // self.size)

    def read(
        self, shard: int, start: int, wanted: Callable[[int], bool]
    ) -> Iterator[tuple[int, Row | SkippedSample]]:
        """Wanted files of a shard with their numbers."""
        place = str(self.listing.place)
        files = self.files[shard * self.size : (shard + 1) * self.size]
        for number, file in enumerate(files):
            if wanted(number):
                for _, row in read_file("pictures", str(file), place, self.listing.has_classes):
                    yield number, row


def open_shards(path: str, split: str, columns: Sequence[str] = ()) -> Shards:
    """Open a split as a stream.

    Args:
        path: a folder, a file, a pattern of files (`data/*.tar`) or the id of a dataset on the
            Hub, as `sources.open_dataset` takes them.
        split: its name.
        columns: those that are needed, the first of them the images; or all. A tar shows its
            columns only when it is read.

    Raises:
        DataError: there is nothing there, it has no such split or column, or cannot be read.
    """
    path = find_data(path)
    try:
        if is_local(path) and "://" not in path:
            listing = list_files(path, columns[0] if columns else None)
            if listing.kind in ("tars", "table", "pictures"):
                return open_files(path, listing, split, columns)
            if listing.kind == "saved":
                return open_saved(path, listing.place, split)
        builder = find_builder(path, split)
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


def open_files(path: str, listing: Listing, split: str, columns: Sequence[str]) -> Shards:
    """The shards of files that are read row by row here.

    Raises:
        DataError: there is no such split.
    """
    if split not in listing.files and list(listing.files) == ["train"] and is_pattern(path):
        files = listing.files["train"]  # files that are named one by one are of one kind
    else:
        refuse_missing_split(path, split, list(listing.files))
        files = listing.files[split]
    if listing.kind == "tars":
        return TarShards(path, [str(file) for file in files])
    if listing.kind == "table":
        known = [name for file in files for name in table_columns(file)]
        refuse_missing_columns(path, columns, known)
        return TableShards(path, files, columns[0] if columns else None)
    return PictureShards(path, listing, files)


def is_pattern(path: str) -> bool:
    """Whether a path is not a folder: a file, or a pattern of files."""
    return not Path(path).expanduser().is_dir()


def find_builder(path: str, split: str) -> Any:
    """What `datasets` would load this with; no data are read yet.

    Raises:
        DataError: it has no such split.
    """
    if "://" in path:  # of a system that fsspec knows
        kind = next((k for k, ends in REMOTE_KINDS.items() if path.lower().endswith(ends)), None)
        if kind is None:
            ends = ", ".join(end for ends in REMOTE_KINDS.values() for end in ends)
            raise DataError(f"{path!r} must end in one of {ends}")
        return load_dataset_builder(kind, data_files={split: path})
    if not is_local(path):
        builder = load_dataset_builder(path)
    else:
        listing = list_files(path)
        if listing.kind == "card":
            builder = load_dataset_builder(str(listing.place))
            builder = load_dataset_builder(str(listing.place), cache_dir=cache_for(builder))
        else:
            files = {name: [str(file) for file in f] for name, f in listing.files.items()}
            if is_pattern(path) and split not in files:
                files = {split: files["train"]}
            builder = load_dataset_builder(listing.kind, data_files=files)
    splits = [str(name) for name in builder.config.data_files or builder.info.splits or {}]
    if splits:
        refuse_missing_split(path, split, splits)
    return builder


def open_saved(path: str, folder: Path, split: str) -> DatasetShards:
    """What `save_to_disk` wrote, in as many shards as it has files.

    Raises:
        DataError: it has no such split.
    """
    saved = load_from_disk(str(folder))
    splits = {"train": saved} if isinstance(saved, Dataset) else dict(saved)
    refuse_missing_split(path, split, list(splits))
    rows = splits[split]
    count = max(1, min(len(rows.cache_files), len(rows)))
    return DatasetShards(path, rows.to_iterable_dataset(num_shards=count), [])


def check_stream_columns(rows: IterableDataset, columns: Sequence[str], path: str):
    """Check columns as far as the stream knows them.

    Raises:
        DataError: one is not there; the message lists those that are.
    """
    if rows.column_names is not None:
        refuse_missing_columns(path, columns, rows.column_names)
