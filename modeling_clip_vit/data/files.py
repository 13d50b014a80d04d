"""Open what lies on this machine: folders and files of every kind that images come in."""

import base64
import binascii
import glob
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetBuilder,
    DatasetDict,
    Features,
    Image,
    List,
    Value,
    load_dataset,
    load_dataset_builder,
    load_from_disk,
)
from datasets.config import HF_DATASETS_CACHE
from datasets.data_files import SPLIT_KEYWORDS
from datasets.fingerprint import Hasher

from .columns import column_kinds, find_image_column
from .errors import DataError
from .tars import IMAGE_EXTENSIONS, Row, read_tar

logger = logging.getLogger(__name__)

TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz")
TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson")
#: What `datasets` calls the readers of files.
READERS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    **dict.fromkeys(TAR_SUFFIXES, "webdataset"),
}
#: Shorter texts are taken for paths: not even the smallest image has so few characters.
SHORTEST_BASE64 = 64


def is_local(path: str) -> bool:
    """Whether a path means files here rather than a data set on the Hub."""
    looks_local = path.startswith((".", "/", "~")) or path.count("/") != 1
    return looks_local or path.endswith(tuple(READERS)) or Path(path).expanduser().exists()


def open_local(path: str, image_column: str | None) -> DatasetDict:
    """Every split of a folder, of a file, or of a pattern of files.

    Args:
        path: of them.
        image_column: column of images; where it holds paths, they are relative to the files.

    Raises:
        DataError: there is nothing there.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return open_folder(place, image_column)
    files = [str(place)] if place.is_file() else sorted(glob.glob(str(place), recursive=True))
    if not files:
        what = "no file fits the pattern" if glob.has_magic(path) else "no folder"
        raise DataError(
            f"{what} {path!r} (looked in {Path.cwd()}): give a folder, a file, a pattern of files "
            "or a Hub id"
        )
    return open_files({"train": files}, image_column)


def open_folder(folder: Path, image_column: str | None) -> DatasetDict:
    """Every split of a folder."""
    if (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file():
        opened = load_from_disk(str(folder))
        splits = opened if isinstance(opened, DatasetDict) else DatasetDict(train=opened)
        return anchor_all(splits, image_column, folder)
    has_card = (folder / "README.md").is_file()
    tables = [] if has_card else find_tables(folder)
    if tables:
        return open_files(group_by_split(tables), image_column)
    builder = load_dataset_builder(str(folder))
    files_by_split = {
        str(name): [str(file) for file in files]
        for name, files in (builder.config.data_files or {}).items()
    }
    if any(file.endswith(TAR_SUFFIXES) for files in files_by_split.values() for file in files):
        return open_files(files_by_split, image_column)
    return anchor_all(load_folder(folder, builder), image_column, folder)


def load_folder(folder: Path, builder: DatasetBuilder) -> DatasetDict:
    """Load a folder as it is now.

    `datasets` caches a folder that has a data set card by its name and the card alone: it would
    give what the files held before they changed, or what another folder of that name holds.
    """
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


def find_tables(folder: Path) -> list[str]:
    """The tables at the top of a folder, beside images perhaps; `metadata` is ImageFolder's."""
    return [
        str(file)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in TABLE_SUFFIXES and file.stem != "metadata"
    ]


def group_by_split(files: list[str]) -> dict[str, list[str]]:
    """Files by the split that a word of their name says; `train` where none does."""
    splits: dict[str, list[str]] = {}
    for file in files:
        words = re.split(r"[^a-z]+", Path(file).name.lower())
        named = (str(name) for name, keys in SPLIT_KEYWORDS.items() if set(keys) & set(words))
        splits.setdefault(next(named, "train"), []).append(file)
    return splits


def open_files(files_by_split: dict[str, list[str]], image_column: str | None) -> DatasetDict:
    """Open files that are named one by one.

    Raises:
        DataError: they are of several kinds, or of one that is not known.
    """
    files = [file for files in files_by_split.values() for file in files]
    suffixes = {suffix_of(file) for file in files}
    readers = {READERS.get(suffix, "") for suffix in suffixes}
    if len(suffixes) > 1 and readers != {"webdataset"}:
        raise DataError(
            f"{Path(files[0]).parent} has files of several kinds ({', '.join(sorted(suffixes))}): "
            "name one, or a pattern of those to read"
        )
    if "" in readers:
        raise DataError(f"{files[0]!r} must end in one of {', '.join(READERS)}")
    reader = readers.pop()
    if reader == "webdataset":
        return DatasetDict({name: open_tars(files) for name, files in files_by_split.items()})
    options = reader_options(suffixes.pop())
    builder = load_dataset_builder(reader, data_files=files_by_split, **options)
    splits = load_dataset(
        reader, data_files=files_by_split, cache_dir=cache_for(builder), **options
    )
    return anchor_all(splits, image_column, Path(files[0]).parent)


def reader_options(suffix: str) -> dict[str, Any]:
    """What the reader of files with this end is told."""
    if READERS[suffix] != "csv":
        return {}
    # pandas would take a caption `null` or `NA` for none.
    return {
        "sep": "\t" if suffix == ".tsv" else ",",
        "keep_default_na": False,
        "na_values": [""],
    }


def suffix_of(file: str) -> str:
    """The end of a file's name, one of `READERS` where it is one."""
    known = (suffix for suffix in READERS if file.lower().endswith(suffix))
    return next(known, Path(file).suffix)


def anchor_all(splits: DatasetDict, image_column: str | None, folder: Path) -> DatasetDict:
    """Every split with images in the place of paths to them."""
    return DatasetDict(
        {name: anchor(keep_encoded(rows), image_column, folder) for name, rows in splits.items()}
    )


def anchor(split: Dataset, image_column: str | None, folder: Path) -> Dataset:
    """A split whose column of paths, relative to a folder, or of base64 is one of images."""
    kinds = column_kinds(split.features)
    column = image_column or find_image_column(kinds)
    if column is None or kinds.get(column) != "text":
        return split
    order, texts = split.column_names, list(split[column])
    is_base64 = decode_base64(next(filter(None, texts), "")) is not None
    images = [
        {"bytes": decode_base64(text or ""), "path": None}
        if is_base64
        else {"bytes": None, "path": str(folder / text) if text else None}
        for text in texts
    ]
    split = split.remove_columns(column).add_column(column, images, feature=Image(decode=False))
    return split.select_columns(order)


def decode_base64(text: str) -> bytes | None:
    """The bytes of a text in base64, standard or for URLs; None where it is none."""
    if len(text) < SHORTEST_BASE64:
        return None
    try:
        return base64.b64decode(text.translate(str.maketrans("-_", "+/")), validate=True)
    except (binascii.Error, ValueError):
        return None


def open_tars(urls: list[str]) -> Dataset:
    """The samples of WebDataset tars with random access, as a stream of them has them.

    What is damaged is named and left out. The tars are read twice, and kept as Arrow on disk.

    Raises:
        DataError: they hold no sample.
    """
    kinds: dict[str, set[type]] = {}
    for row in tar_rows(urls):
        if not isinstance(row, Row):
            logger.warning("skipped %s: %s", row.name, row.reason)
            continue
        for name, value in tar_columns(row).items():
            kinds.setdefault(name, set()).add(list if isinstance(value, list) else type(value))
    if not kinds:
        raise DataError(f"there is no sample in {', '.join(urls[:3])}")
    features = Features({name: tar_feature(name, found) for name, found in kinds.items()})
    stamps = [(url, Path(url).stat().st_size, Path(url).stat().st_mtime_ns) for url in urls]
    return Dataset.from_generator(
        generate_tar_rows,
        features=features,
        cache_dir=str(Path(HF_DATASETS_CACHE) / "clip-vit"),
        gen_kwargs={"urls": urls, "features": features},
        fingerprint=Hasher.hash((stamps, features)),
    )


def tar_rows(urls: list[str]) -> Iterator[Any]:
    """The rows of tars, one after the other."""
    for url in urls:
        for _, row in read_tar(url, lambda number: True):
            yield row


def tar_columns(row: Row) -> dict[str, Any]:
    """The columns of a sample, its image once."""
    return {name: value for name, value in row.columns.items() if name not in IMAGE_EXTENSIONS}


def tar_feature(name: str, kinds: set[type]) -> Any:
    """The type of a column whose values have these types; mixed ones are kept as JSON."""
    if name == "image":
        return Image(decode=False)
    kinds = kinds - {type(None)}
    plain = {str: "string", int: "int64", float: "float64", bool: "bool"}
    if len(kinds) == 1 and (kind := next(iter(kinds))) in plain:
        return Value(plain[kind])
    if kinds == {int, float}:
        return Value("float64")
    return List(Value("string")) if kinds == {list} else Value("string")


def generate_tar_rows(urls: list[str], features: Features) -> Iterator[dict[str, Any]]:
    """The usable rows of tars, every column in each."""
    for row in tar_rows(urls):
        if isinstance(row, Row):
            columns = tar_columns(row)
            yield {
                name: tar_value(columns.get(name), feature, row.name)
                for name, feature in features.items()
            }


def tar_value(value: Any, feature: Any, name: str) -> Any:
    """A value as its column takes it."""
    if isinstance(feature, Image):
        return {"bytes": value, "path": name}
    if value is None:
        return None
    if isinstance(feature, List):
        return [text if isinstance(text, str) else json.dumps(text) for text in value]
    if feature.dtype == "string" and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return value
