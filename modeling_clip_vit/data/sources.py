"""Open an image-text dataset from anywhere, and check that it has what the options need."""

import logging
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets import (
    ClassLabel,
    Dataset,
    DatasetDict,
    Image,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.builder import DatasetBuilder
from datasets.config import HF_DATASETS_CACHE
from datasets.fingerprint import Hasher

from ..utils.errors import first_line
from ..utils.resources import find_data
from .columns import column_kinds, find_image_column
from .errors import DataError
from .images import PICTURE_SUFFIXES
from .listing import METADATA, Listing, is_local, list_files, stamps, walk
from .materialize import materialize
from .places import locate_image
from .readers import LABEL, class_names, read_rows
from .rows import SkippedSample

logger = logging.getLogger(__name__)


class Splits(DatasetDict):
    """The splits of a dataset, and what could not be read of each.

    Args:
        splits: name -> rows.
        problems: name -> the rows that could not be read.
    """

    def __init__(
        self, splits: dict[str, Dataset], problems: dict[str, list[SkippedSample]] | None = None
    ):
        super().__init__(splits)
        self.problems = problems or {}


def open_dataset(path: str, image_column: str | None = None) -> Splits:
    """Open every split of a dataset, its images not yet decoded.

    Args:
        path: a folder of images, of parquet, of CSV, TSV or JSON lines, of WebDataset tars, or one
            that `Dataset.save_to_disk` wrote; one such file, or a pattern of them (`data/*.csv`),
            which are then all `train`; or the id of a dataset on the Hub.
        image_column: the column of images. Where it holds texts, they are paths relative to the
            files, or base64. None for a guess.

    Raises:
        DataError: there is no such dataset, or it cannot be read.
    """
    path = find_data(path)
    here = is_local(path)
    try:
        if here:
            return open_local(path, image_column)
        return Splits({name: keep_encoded(rows) for name, rows in load_dataset(path).items()})
    except DataError:
        raise
    except Exception as error:  # `datasets`, Arrow and remote systems have many of their own
        hint = "" if here else f"; there is no folder of that name in {Path.cwd()}"
        reason = first_line(error.__cause__ or error)  # type: ignore[arg-type]
        # As `datasets` says it of a split without rows.
        if empty := re.search('Instruction "(.*)" corresponds to no data', reason):
            raise DataError(f"split {empty[1]!r} of {path!r} is empty") from error
        raise DataError(f"cannot open the dataset {path!r}: {reason}{hint}") from error


def open_local(path: str, image_column: str | None) -> Splits:
    """Every split of a folder, of a file, or of a pattern of files."""
    listing = list_files(path, image_column)
    listing.warn()
    if listing.kind in ("table", "tars", "pictures"):
        return open_rows(path, listing, image_column)
    if listing.kind == "saved":
        opened = load_from_disk(str(listing.place))
        splits = opened if isinstance(opened, DatasetDict) else DatasetDict(train=opened)
    elif listing.kind == "card":
        splits = load_fresh(load_dataset_builder(str(listing.place)), str(listing.place))
    else:
        files = {name: [str(file) for file in files] for name, files in listing.files.items()}
        builder = load_dataset_builder(listing.kind, data_files=files)
        splits = load_fresh(builder, listing.kind, data_files=files)
    encoded = {name: keep_encoded(split) for name, split in splits.items()}
    return Splits({n: anchor(s, image_column, listing.place) for n, s in encoded.items()})


def open_rows(path: str, listing: Listing, image_column: str | None) -> Splits:
    """Every split of files that are read row by row here.

    Raises:
        DataError: a split has no row.
    """
    names = class_names(listing)
    opened = Splits({})
    for split, files in listing.files.items():
        arguments: dict[str, Any] = {
            "kind": listing.kind,
            "files": [str(file) for file in files],
            "place": str(listing.place),
            "has_classes": listing.has_classes,
            "image_column": image_column,
        }
        given = {LABEL: ClassLabel(names=names)} if names else {}
        try:
            rows, problems = materialize(read_rows, arguments, image_column, stamps(files), given)
        except DataError as error:
            if not any(True for _ in read_rows(**arguments)):
                raise DataError(f"split {split!r} of {path!r} is empty") from error
            raise DataError(f"{path!r}: {error}") from error
        for problem in problems:
            logger.warning("skipped %s: %s", problem.name, problem.reason)
        opened[split], opened.problems[split] = rows, problems
    if listing.kind == "table":
        warn_of_unlisted(listing, opened)
    return opened


def warn_of_unlisted(listing: Listing, opened: Splits):
    """Warn about images next to their metadata that have no row in it."""
    tables = [file for files in listing.files.values() for file in files]
    if not any(file.stem.lower() == METADATA for file in tables):
        return
    listed = set()
    for rows in opened.values():
        for name, feature in rows.features.items():
            if isinstance(feature, Image):
                listed |= {image["path"] for image in rows[name] if image and image["path"]}
    pictures = (file for file in walk(listing.place) if file.suffix.lower() in PICTURE_SUFFIXES)
    unlisted = [str(file) for file in pictures if str(file) not in listed]
    if unlisted:
        logger.warning(
            "%d pictures in %s have no row in its metadata and are left out, such as %s",
            len(unlisted),
            listing.place,
            unlisted[0],
        )


def load_fresh(builder: DatasetBuilder, *args, **kwargs) -> DatasetDict:
    """Load what a builder found as it is now.

    `datasets` caches a folder with a dataset card by its name and the card alone, so it could
    return the content of files before they changed, or of another folder with the same name.
    """
    return load_dataset(*args, cache_dir=cache_for(builder), **kwargs)


def cache_for(builder: DatasetBuilder) -> str:
    """A cache folder of its own for these very files, at the size and date that they have now."""
    files_by_split = builder.config.data_files or {}
    files = [(name, list(files), files.origin_metadata) for name, files in files_by_split.items()]
    return str(Path(HF_DATASETS_CACHE) / "clip-vit" / Hasher.hash(files))


def keep_encoded(split: Dataset) -> Dataset:
    """Keep images as encoded bytes: the reader of a row decides when to decode them."""
    for name, feature in split.features.items():
        if isinstance(feature, Image):
            split = split.cast_column(name, Image(decode=False))
    return split


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


def get_split(splits: DatasetDict, name: str, path: str, hint: str = "") -> Dataset:
    """One split by name; the hint ends the message where it is not there.

    Raises:
        DataError: there is no such split, or it is empty.
    """
    refuse_missing_split(path, name, splits, hint)
    if len(splits[name]) == 0:
        raise DataError(f"split {name!r} of {path!r} is empty")
    return splits[name]


def refuse_missing_split(path: str, name: str, splits: Iterable[str], hint: str = ""):
    """Reject a split that does not exist.

    Raises:
        DataError: the message lists those that do, and ends with the hint.
    """
    names = sorted(splits)
    if name not in names:
        raise DataError(f"{path!r} has no split {name!r}: it has {', '.join(names)}{hint}")


def get_problems(splits: DatasetDict, name: str) -> list[SkippedSample]:
    """The rows of a split that could not be read."""
    return getattr(splits, "problems", {}).get(name, [])
