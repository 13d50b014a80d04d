"""Sources that `datasets` reads: the Hub, Parquet, Arrow, folders with a dataset card."""

import os.path
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Image,
    IterableDataset,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.builder import DatasetBuilder
from datasets.fingerprint import Hasher

from ...utils.errors import first_line
from ..columns import check_columns, column_kinds, find_image_column
from ..errors import DataError
from ..files.listing import ARROW_SUFFIXES, PARQUET_SUFFIXES, Listing
from ..files.patterns import expand_braces
from ..files.places import locate_image
from ..files.tables import DELIMITED_SUFFIXES, JSON_LINES_SUFFIXES
from ..files.tars import TAR_SUFFIXES, read_tar
from ..rows import Row, SkippedSample
from .materialize import CACHE
from .row_source import RowSource
from .source import NumberedRows, Shards, Splits, Wanted, refuse_missing_split

#: Reader of `datasets` -> the endings of files that it streams from another system.
REMOTE_KINDS = {
    "parquet": PARQUET_SUFFIXES,
    "arrow": ARROW_SUFFIXES,
    "csv": DELIMITED_SUFFIXES,
    "json": (".json", *JSON_LINES_SUFFIXES),
    "webdataset": TAR_SUFFIXES,
}
#: Rows that are taken out of an Arrow table at once.
ROWS_AT_ONCE = 64


class HubDataset:
    """A dataset on the Hub.

    Args:
        path: its id.
    """

    def __init__(self, path: str):
        self.path = path

    def split_names(self) -> list[str]:
        """The names of the splits."""
        return builder_splits(load_dataset_builder(self.path))

    def load(self) -> Splits:
        """Every split, downloaded."""
        splits = load_dataset(self.path)
        return Splits({name: keep_encoded(rows) for name, rows in splits.items()})

    def stream(self, split: str, columns: Sequence[str] = ()) -> Shards:
        """A split in the files that it has on the Hub."""
        return stream_builder(self.path, load_dataset_builder(self.path), split, columns)


class RemoteFile:
    """A file, or a pattern of files, of another system that fsspec knows; only streamed.

    Args:
        path: its URL; braces stand for several.

    Raises:
        DataError: it is not of a kind that `datasets` streams, or braces are not closed.
    """

    def __init__(self, path: str):
        self.urls = expand_braces(path)
        kinds = (
            kind
            for kind, ends in REMOTE_KINDS.items()
            if all(url.lower().endswith(ends) for url in self.urls)
        )
        kind = next(kinds, None)
        if kind is None:
            ends = ", ".join(end for ends in REMOTE_KINDS.values() for end in ends)
            raise DataError(f"{path!r} must end in one of {ends}")
        self.path, self.kind = path, kind

    def split_names(self) -> list[str]:
        """All files are one split."""
        return ["train"]

    def load(self) -> Splits:
        """Random access to a file of another system would read it again and again.

        Raises:
            DataError: always.
        """
        raise DataError(
            f"{self.path!r} is on another system and can only be streamed: name it in "
            "stream_sources, or copy it to this machine"
        )

    def stream(self, split: str, columns: Sequence[str] = ()) -> Shards:
        """All files as any split."""
        builder = load_dataset_builder(self.kind, data_files={split: self.urls})
        return stream_builder(self.path, builder, split, columns)


class RemoteTars(RowSource):
    """WebDataset tars by their URLs, one per shard; only streamed."""

    def read(self, shard: str, wanted: Wanted) -> NumberedRows:
        """The wanted samples of a tar."""
        return read_tar(shard, wanted)


class BuilderFiles:
    """Parquet and Arrow files, and folders whose dataset card says what they are made of.

    Args:
        path: what to call the dataset in a message.
        listing: its files.
        image_column: column of images; None to guess it.
    """

    def __init__(self, path: str, listing: Listing, image_column: str | None = None):
        self.path, self.listing, self.image_column = path, listing, image_column
        self.has_card = listing.kind == "card"
        #: What `datasets` calls the reader of these files.
        self.reader = str(listing.place) if self.has_card else listing.kind

    def split_names(self) -> list[str]:
        """The names of the splits."""
        if self.has_card:
            return builder_splits(load_dataset_builder(self.reader))
        return list(self.listing.files)

    def load(self) -> Splits:
        """Every split, as its files are now."""
        self.listing.warn()
        options = {} if self.has_card else {"data_files": self.data_files()}
        cache = cache_for(load_dataset_builder(self.reader, **options))
        splits = load_dataset(self.reader, cache_dir=cache, **options)
        return anchor_all(splits, self.image_column, self.listing.place)

    def stream(self, split: str, columns: Sequence[str] = ()) -> Shards:
        """A split, one shard per file."""
        if self.has_card:
            builder = load_dataset_builder(self.reader)
            builder = load_dataset_builder(self.reader, cache_dir=cache_for(builder))
        else:
            files = self.data_files()
            if self.listing.is_named and split not in files:
                files = {split: files["train"]}
            builder = load_dataset_builder(self.reader, data_files=files)
        return stream_builder(self.path, builder, split, columns)

    def data_files(self) -> dict[str, list[str]]:
        """The paths of each split's files."""
        return {name: [str(file) for file in files] for name, files in self.listing.files.items()}


class SavedDataset:
    """What `save_to_disk` wrote.

    Args:
        path: what to call the dataset in a message.
        listing: its folder.
        image_column: column of images; None to guess it.
    """

    def __init__(self, path: str, listing: Listing, image_column: str | None = None):
        self.path, self.folder, self.image_column = path, listing.place, image_column

    def open(self) -> DatasetDict:
        """The splits as they were saved."""
        saved = load_from_disk(str(self.folder))
        return DatasetDict(train=saved) if isinstance(saved, Dataset) else saved

    def split_names(self) -> list[str]:
        """The names of the splits."""
        return list(self.open())

    def load(self) -> Splits:
        """Every split."""
        return anchor_all(self.open(), self.image_column, self.folder)

    def stream(self, split: str, columns: Sequence[str] = ()) -> Shards:
        """A split in as many shards as it has files."""
        splits = self.open()
        refuse_missing_split(self.path, split, splits)
        rows = splits[split]
        count = max(1, min(len(rows.cache_files), len(rows)))
        return DatasetShards(self.path, rows.to_iterable_dataset(num_shards=count), [])


class DatasetShards:
    """The shards of what `datasets` streams, such as one Parquet file each.

    A class label comes as the name of its class, which says the same in every source.

    Args:
        path: what to call the dataset in a message.
        rows: the split.
        files: its files; none if they are not known.
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

    def read(self, shard: int, start: int, wanted: Wanted) -> NumberedRows:
        """Wanted rows of a shard with their numbers; a failure ends the shard."""
        # Tables begin at the same rows wherever reading starts, so a failure has one number.
        number = start - start % ROWS_AT_ONCE
        name = PurePosixPath(self.names[shard]).name
        try:
            rows = self.rows.shard(len(self), shard)
            for table in (rows.skip(number) if number else rows).iter(ROWS_AT_ONCE):
                places = [place for place in range(len(table)) if wanted(number + place)]
                chosen = table.take(pa.array(places, pa.int64()))
                for place, columns in zip(places, chosen.to_pylist(), strict=True):
                    for column in self.class_names.keys() & columns.keys():
                        columns[column] = self.name_class(columns[column], column)
                    row_name = f"{name}, row {number + place}"
                    yield number + place, Row(row_name, columns, folder=self.folders[shard])
                number += len(table)
        except Exception as error:  # Arrow's, and those of every remote system
            if wanted(number):
                reason = f"the rest cannot be read: {first_line(error)}"
                yield number, SkippedSample(self.names[shard], reason)

    def name_class(self, value: Any, column: str) -> str | None:
        """The name of a class; None if the row has none of them."""
        names = self.class_names[column]
        return names[value] if isinstance(value, int) and 0 <= value < len(names) else None


def stream_builder(
    path: str, builder: DatasetBuilder, split: str, columns: Sequence[str] = ()
) -> Shards:
    """A split of what `datasets` would load, as shards.

    Raises:
        DataError: there is no such split or column.
    """
    splits = builder_splits(builder)
    if splits:
        refuse_missing_split(path, split, splits)
    files = [str(file) for file in (builder.config.data_files or {}).get(split, [])]
    if files and all(file.endswith(TAR_SUFFIXES) for file in files):
        # Read here, a damaged tar does not end the others.
        return RemoteTars(path, {split: files}).stream(split)
    rows = builder.as_streaming_dataset(split)
    if rows.column_names is not None:
        check_columns(rows.column_names, columns, path)
    if columns and hasattr(builder.config, "columns"):
        # The other columns of a Parquet file need not even be fetched.
        builder.config.columns = list(dict.fromkeys(columns))
        rows = builder.as_streaming_dataset(split)
    return DatasetShards(path, rows, files)


def builder_splits(builder: DatasetBuilder) -> list[str]:
    """The names of the splits of what `datasets` would load; none if it does not know them."""
    return [str(name) for name in builder.config.data_files or builder.info.splits or {}]


def cache_for(builder: DatasetBuilder) -> str:
    """A cache folder for exactly these files, at their current sizes and dates.

    `datasets` caches a folder with a dataset card by its name and the card alone, so it could
    return the content of files before they changed, or of another folder with the same name.
    """
    files_by_split = builder.config.data_files or {}
    files = [(name, list(files), files.origin_metadata) for name, files in files_by_split.items()]
    return str(CACHE / Hasher.hash(files))


def keep_encoded(split: Dataset) -> Dataset:
    """Keep images as encoded bytes: the reader of a row decides when to decode them."""
    for name, feature in split.features.items():
        if isinstance(feature, Image):
            split = split.cast_column(name, Image(decode=False))
    return split


def anchor_all(splits: DatasetDict, image_column: str | None, folder: Path) -> Splits:
    """Splits whose images stay encoded, and whose paths to images begin at a folder."""
    return Splits(
        {name: anchor(keep_encoded(rows), image_column, folder) for name, rows in splits.items()}
    )


def anchor(split: Dataset, image_column: str | None, folder: Path) -> Dataset:
    """A split whose column of paths, relative to a folder, or of base64 is one of images."""
    kinds = column_kinds(split.features)
    column = image_column or find_image_column(kinds)
    if column is None or kinds.get(column) != "text":
        return split
    order = split.column_names
    images = [locate_image(text, str(folder)) if text else None for text in split[column]]
    split = split.remove_columns(column).add_column(column, images, feature=Image(decode=False))
    return split.select_columns(order)
