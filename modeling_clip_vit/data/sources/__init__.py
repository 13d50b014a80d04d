"""From a path to a dataset: one table of what opens it, for tables and streams alike."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from ...utils.errors import first_line
from ...utils.resources import find_data
from ..columns import kind_of_value
from ..errors import DataError
from ..files.listing import is_local, list_files
from ..rows import Row
from .hugging_face import BuilderFiles, HubDataset, RemoteFile, SavedDataset
from .row_files import PictureFiles, TableFiles, TarFiles
from .row_source import RowSource
from .source import (
    NumberedRows,
    Shards,
    Source,
    Splits,
    Wanted,
    get_problems,
    get_split,
    refuse_missing_split,
)

#: Kind of files, as `list_files` says it -> what reads them.
FILE_SOURCES: dict[str, Callable[..., Source]] = {
    "pictures": PictureFiles,
    "table": TableFiles,
    "tars": TarFiles,
    "parquet": BuilderFiles,
    "arrow": BuilderFiles,
    "card": BuilderFiles,
    "saved": SavedDataset,
}


def open_remote(path: str, image_column: str | None) -> Source | None:
    """Files of another system, by their URL."""
    return RemoteFile(path) if "://" in path else None


def open_files(path: str, image_column: str | None) -> Source | None:
    """Files on this machine."""
    if not is_local(path):
        return None
    listing = list_files(path, image_column)
    return FILE_SOURCES[listing.kind](path, listing, image_column)


def open_hub(path: str, image_column: str | None) -> Source | None:
    """A dataset on the Hub."""
    return HubDataset(path)


#: What opens a path: the first that does not return None for it.
SOURCES: list[Callable[[str, str | None], Source | None]] = [open_remote, open_files, open_hub]


def open_source(path: str, image_column: str | None = None) -> Source:
    """The source that a path means.

    Args:
        path: a folder of images, of Parquet, of CSV, TSV or JSON lines, of WebDataset tars, or one
            that `Dataset.save_to_disk` wrote; one such file, or a pattern of them (`data/*.csv`,
            `data/{000..331}.tar`), which are then all `train`; a URL; or the id of a dataset on
            the Hub.
        image_column: the column of images. If it holds texts, they are paths relative to the
            files, or base64. None to guess it.

    Raises:
        DataError: there is no such dataset.
    """
    path = find_data(path)
    opened = (open_one(path, image_column) for open_one in SOURCES)
    return next(source for source in opened if source is not None)


def open_dataset(path: str, image_column: str | None = None) -> Splits:
    """Open every split of a dataset with random access, its images not yet decoded.

    Args:
        path, image_column: as for `open_source`.

    Raises:
        DataError: there is no such dataset, or it cannot be read.
    """
    try:
        return open_source(path, image_column).load()
    except DataError:
        raise
    except Exception as error:  # `datasets`, Arrow and remote systems have many of their own
        hint = "" if is_local(path) else f"; there is no folder of that name in {Path.cwd()}"
        reason = first_line(error.__cause__ or error)  # type: ignore[arg-type]
        # As `datasets` says it of a split without rows.
        if empty := re.search('Instruction "(.*)" corresponds to no data', reason):
            raise DataError(f"split {empty[1]!r} of {path!r} is empty") from error
        raise DataError(f"cannot open the dataset {path!r}: {reason}{hint}") from error


def open_shards(
    path: str, split: str, columns: Sequence[str] = (), image_column: str | None = None
) -> Shards:
    """Open a split of a dataset as a stream.

    Args:
        path, image_column: as for `open_source`.
        split: its name; files that were named one by one belong to any split.
        columns: those that are needed; none for all. A tar shows its columns only when it is read.

    Raises:
        DataError: there is no such dataset, it has no such split or column, or cannot be read.
    """
    try:
        return open_source(path, image_column).stream(split, columns)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"cannot stream {path!r}: {first_line(error)}") from error


def peek_kinds(shards: Shards, most: int = 100) -> dict[str, str]:
    """What each column of a stream holds, by its first readable row; empty if there is none.

    Args:
        shards: of the stream.
        most: rows of a shard to look at.
    """
    for shard in range(len(shards)):
        for _, row in shards.read(shard, 0, lambda number: number < most):
            if isinstance(row, Row):
                kinds = {name: kind_of_value(value) for name, value in row.columns.items()}
                return kinds | dict.fromkeys(shards.class_names, "label")
    return {}


__all__ = [
    "SOURCES",
    "NumberedRows",
    "RowSource",
    "Shards",
    "Source",
    "Splits",
    "Wanted",
    "get_problems",
    "get_split",
    "open_dataset",
    "open_shards",
    "open_source",
    "peek_kinds",
    "refuse_missing_split",
]
