"""A dataset as a source of an index: Parquet, tars, tables, the Hub; read as a stream.

This module imports `datasets`, and is itself imported only when a dataset is indexed.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from ..data.captions import find_texts
from ..data.columns import check_columns, choose_image_column, find_caption_columns
from ..data.errors import DataError
from ..data.files.listing import is_local, list_files
from ..data.files.places import locate_image
from ..data.rows import Row
from ..data.sources import Shards, open_source, peek_kinds, refuse_missing_split
from .changes import read_root
from .index import PictureIndex
from .reading import Item
from .schema import RESERVED_NAMES
from .settings import IndexSource
from .tasks import Task
from .update import Plan, holder_of, prefixed

#: Bytes of pictures after which a shard ends early.
SHARD_BYTES = 2**27
#: Rows that show the types of columns.
ROWS_TO_SEE = 1000


@dataclass
class DatasetOptions:
    """How a dataset is read.

    Args:
        split: to index; None for all.
        image_column: of the pictures; None to guess it.
        caption_column: of the texts that are kept; None to guess it.
        columns: further columns that are kept.
    """

    split: str | None = None
    image_column: str | None = None
    caption_column: str | None = None
    columns: list[str] = field(default_factory=list)


class DatasetReader:
    """The rows of a dataset, a file at a time.

    Args:
        path: a folder, a file, a pattern, a URL or a Hub id.
        options: how it is read.

    Raises:
        DataError: there is no such dataset, split or column.
    """

    def __init__(self, path: str, options: DatasetOptions):
        self.path, self.options = path, options
        #: Of the rows: the folder of local files, otherwise the path itself.
        self.root = str(list_files(path).place.resolve()) if is_local(path) else path
        source = open_source(path, options.image_column)
        names = source.split_names()
        if options.split is not None:
            refuse_missing_split(path, options.split, names)
        self.splits = [source.stream(name) for name in names if options.split in (None, name)]
        kinds = peek_kinds(self.splits[0])
        self.image_column = options.image_column or choose_image_column(kinds, path)
        captions = options.caption_column
        self.caption_columns = (
            [captions] if captions else find_caption_columns(kinds, self.image_column)
        )
        wanted = [self.image_column, *self.caption_columns, *options.columns]
        if kinds:
            check_columns(list(kinds), wanted, path)
        reserved = RESERVED_NAMES.intersection(options.columns)
        if reserved:
            raise DataError(
                f"--columns {', '.join(sorted(reserved))}: every index has a column of that name"
            )

    def files(self) -> Iterator[tuple[str, Shards, int]]:
        """The name of each file, relative to the root, with the split and the shard that it is."""
        for shards in self.splits:
            for number in range(len(shards)):
                yield self.shard_name(shards, number), shards, number

    def shard_name(self, shards: Any, number: int) -> str:
        """The file of a shard, relative to the root where it lies below it."""
        names = getattr(shards, "names", None) or shards.shards
        name = str(names[number])
        root = f"{self.root}/"
        return Path(name).resolve().as_posix().removeprefix(root) if is_file(name) else name

    def column_types(self) -> dict[str, pa.DataType]:
        """The columns to keep -> their types, by the first rows."""
        values: dict[str, list[Any]] = {name: [] for name in self.options.columns}
        rows = (row for _, row in self.splits[0].read(0, 0, lambda number: number < ROWS_TO_SEE))
        for row in rows:
            for name in values:
                values[name].append(row.columns.get(name) if isinstance(row, Row) else None)
        return {name: type_of(found) for name, found in values.items()}

    def items(self, name: str, shards: Shards, number: int, prefix: str) -> Iterator[Item]:
        """The pictures of a file.

        Args:
            name, shards, number: as `files` gives them.
            prefix: what ids begin with.
        """
        modified = modified_of(Path(self.root) / name)
        for row_number, row in shards.read(number, 0, lambda number: True):
            columns: dict[str, Any] = {
                "id": f"{prefix}{name}#{row_number}",
                "path": name,
                "root": self.root,
                "name": f"{name.rpartition('/')[2]}, row {row_number}",
                "modified": modified,
            }
            if not isinstance(row, Row):
                yield Item(columns | {"size": 0}, error=row.reason)
                continue
            yield self.make_item(row, columns)

    def make_item(self, row: Row, columns: dict[str, Any]) -> Item:
        """One picture with the columns that are kept."""
        texts = [
            text for name in self.caption_columns for text in find_texts(row.columns.get(name))
        ]
        if texts:
            columns |= {"caption": texts[0], "name": texts[0][:200]}
        columns |= {name: plain(row.columns.get(name)) for name in self.options.columns}
        try:
            content, file = self.picture_of(row)
        except (DataError, OSError) as error:
            return Item(columns | {"size": 0}, error=str(error))
        if file is not None:
            below = file.as_posix().removeprefix(f"{self.root}/")
            columns |= {"path": below, "modified": modified_of(file)}
        return Item(columns | {"size": len(content)}, content)

    def picture_of(self, row: Row) -> tuple[bytes, Path | None]:
        """The encoded picture of a row, and its file where it is one.

        Raises:
            DataError, OSError: it has none that can be read.
        """
        value = row.columns.get(self.image_column)
        if isinstance(value, str):
            value = locate_image(value, row.folder)
        if isinstance(value, bytes):
            return value, None
        if isinstance(value, dict) and value.get("bytes") is not None:
            return value["bytes"], None
        if isinstance(value, dict) and value.get("path"):
            file = Path(row.folder, value["path"]).resolve()
            return file.read_bytes(), file
        raise DataError("there is no image")


def plan_dataset(
    index: PictureIndex, source: IndexSource, reader: DatasetReader, shard_size: int
) -> tuple[Plan, dict[str, Any]]:
    """What is to be done so that an index says what a dataset holds.

    Files whose size and time are as they were are not read again.

    Args:
        index: to bring in step.
        source: of the dataset, as the index knows it.
        reader: of the dataset.
        shard_size: pictures of a shard, which is one commit.

    Returns:
        The plan, and the state of the files to note once it is done.
    """
    prefix = prefixed(index, reader.root)
    files = list(reader.files())
    states = {name: state_of(Path(reader.root) / name) for name, _, _ in files}
    before = source.options.get("files", {})
    to_read = [
        file for file in files if states[file[0]] is None or states[file[0]] != before.get(file[0])
    ]
    reread = {prefix + name for name, _, _ in to_read}
    gone = {prefix + name for name in before.keys() - states.keys()}
    ids = read_root(index.table, reader.root)["id"].to_pylist()
    holders = [holder_of(row_id) for row_id in ids]
    plan = Plan(
        root=reader.root,
        shards=make_shards(reader, to_read, prefix, shard_size),
        total=None,
        tasks=lambda: make_tasks(reader, to_read, prefix),
        changed=sum(holder in reread for holder in holders),
        same=sum(holder not in reread and holder not in gone for holder in holders),
        vanished=[i for i, holder in zip(ids, holders, strict=True) if holder in gone],
        several=reread,
    )
    return plan, states


def make_shards(
    reader: DatasetReader, files: list[tuple[str, Shards, int]], prefix: str, shard_size: int
) -> Iterator[list[Item]]:
    """The pictures of files, a shard at a time."""
    items: list[Item] = []
    size = 0
    for name, shards, number in files:
        for item in reader.items(name, shards, number, prefix):
            items.append(item)
            size += len(item.content or b"")
            if len(items) == shard_size or size > SHARD_BYTES:
                yield items
                items, size = [], 0
    if items:
        yield items


def make_tasks(
    reader: DatasetReader, files: list[tuple[str, Shards, int]], prefix: str
) -> Iterator[Task]:
    """A task for each file."""
    source = {"path": reader.path, "options": asdict(reader.options)}
    for number, (name, _, _) in enumerate(files):
        yield Task(number, source=source, file=name, prefix=prefix)


def is_file(name: str) -> bool:
    """Whether a name is that of a file on this machine."""
    return "://" not in name and Path(name).is_file()


def state_of(file: Path) -> list[int] | None:
    """Size and time of a file; None for anything else, which is read again each time."""
    try:
        state = file.stat()
    except OSError:
        return None
    return [state.st_size, state.st_mtime_ns]


def modified_of(file: Path) -> int | None:
    """When a file was changed, in microseconds; None where it is no file here."""
    state = state_of(file)
    return None if state is None else state[1] // 1000


def type_of(values: list[Any]) -> pa.DataType:
    """The type of a column with these values: a text, a number, a truth value, a date, texts."""
    try:
        found = pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()
    simple = (
        *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean),
        *(pa.types.is_temporal, pa.types.is_string),
    )
    if pa.types.is_list(found) and pa.types.is_string(found.value_type):
        return found
    return found if any(fits(found) for fits in simple) else pa.string()


def plain(value: Any) -> Any:
    """A value that a column can hold: mappings and mixed lists as JSON."""
    is_texts = isinstance(value, list) and all(isinstance(part, str) for part in value)
    if isinstance(value, dict) or (isinstance(value, list) and not is_texts):
        return json.dumps(value, ensure_ascii=False, default=str)
    return value
