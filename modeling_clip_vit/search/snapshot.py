"""A copy of a small table that a search opens at once: vectors as an array, rows as Arrow.

Opening LanceDB takes longer than all else that a search does, and its exact scan is many times
slower than a product of numpy's. The copy belongs to one version of the table and is made anew,
by the next search or the next run of `clip-vit index`, when the table has moved on.

Shape legend: `N` pictures, `P` projection.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from ..utils.folders import replaced_folder
from .schema import TABLE, VECTOR

#: The folder of an index with what searches keep.
SEARCH_FOLDER = "search"
VECTORS_FILE, ROWS_FILE, COUNTS_FILE = "vectors.npy", "rows.arrow", "counts.json"
BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Snapshot:
    """The readable pictures of one version of a table.

    Args:
        version: of the table.
        vectors: (N, P), float32, of length 1.
        rows: the other columns of the same pictures.
        unreadable: number of pictures without a vector, which are left out.
    """

    version: int
    vectors: np.ndarray
    rows: pa.Table
    unreadable: int


def local_version(folder: Path) -> int | None:
    """The version of the table in a folder, without opening it; None if it cannot be told.

    Lance names the manifest of version v `v.manifest`, or 2^64 - 1 - v with 20 digits.
    """
    try:
        names = [path.name for path in (folder / f"{TABLE}.lance" / "_versions").iterdir()]
    except OSError:
        return None
    numbers = [match[1] for name in names if (match := re.fullmatch(r"(\d+)\.manifest", name))]
    if not numbers:
        return None
    return max(2**64 - 1 - int(it) if len(it) == 20 else int(it) for it in numbers)


def snapshot_folder(folder: Path, version: int) -> Path:
    """Where the copy of a version is."""
    return folder / SEARCH_FOLDER / f"snapshot-{version}"


def open_snapshot(folder: Path, version: int) -> Snapshot | None:
    """The copy of a version of the table, memory-mapped; None if there is none."""
    source = snapshot_folder(folder, version)
    try:
        counts = json.loads((source / COUNTS_FILE).read_text(encoding="utf-8"))
        vectors = np.load(source / VECTORS_FILE, mmap_mode="r", allow_pickle=False)
        with pa.memory_map(str(source / ROWS_FILE)) as file:
            rows = pa.ipc.open_file(file).read_all()
    except (OSError, ValueError):
        return None
    if len(vectors) != rows.num_rows:
        return None
    return Snapshot(version, vectors, rows, counts["unreadable"])


def read_table(table: Any, embedding_size: int) -> Snapshot:
    """Read the readable pictures of an opened table, at the version at which it was opened.

    Args:
        table: LanceDB's.
        embedding_size: P.
    """
    version, total = table.version, 0
    vectors, rows = [], []
    for batch, vectors_NP in read_batches(table, table.schema.names):
        total += batch.num_rows
        readable = batch.column(VECTOR).is_valid()
        vectors.append(vectors_NP)
        rows.append(batch.drop_columns([VECTOR]).filter(readable))
    schema = pa.schema([field for field in table.schema if field.name != VECTOR])
    found = pa.Table.from_batches(rows, schema)
    empty = np.zeros((0, embedding_size), np.float32)
    return Snapshot(version, np.concatenate([empty, *vectors]), found, total - found.num_rows)


def row_values(rows: pa.Table, place: int) -> dict[str, Any]:
    """One row as Python values; Arrow's own conversion of times would import pandas first."""
    row = rows.slice(place, 1)
    values = {}
    for field, column in zip(row.schema, row.columns, strict=True):
        array = column.chunk(0)
        if not pa.types.is_timestamp(field.type):
            values[field.name] = array[0].as_py()
            continue
        number = array.view(pa.int64())[0].as_py()
        values[field.name] = None if number is None else read_time(number, field.type)
    return values


def read_time(number: int, kind: pa.DataType) -> datetime:
    """The time that a number of seconds or parts of them since 1970 means."""
    parts = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[kind.unit]
    epoch = datetime(1970, 1, 1, tzinfo=UTC if kind.tz else None)
    return epoch + timedelta(microseconds=number * 1_000_000 // parts)


def read_batches(
    table: Any, columns: list[str], where: str | None = None
) -> Iterator[tuple[pa.RecordBatch, np.ndarray]]:
    """Columns of a table a batch at a time, each with the vectors that are there, (N, P)."""
    query = table.search().select(columns)
    if where is not None:
        query = query.where(where)
    for batch in query.to_batches(BATCH_ROWS):
        vectors = batch.column(VECTOR).drop_null()
        size = vectors.type.list_size
        yield batch, vectors.flatten().to_numpy(zero_copy_only=True).reshape(-1, size)


def write_snapshot(folder: Path, snapshot: Snapshot):
    """Keep a copy, and remove those of earlier versions.

    Raises:
        OSError: the folder cannot be written to.
    """
    target = snapshot_folder(folder, snapshot.version)
    target.parent.mkdir(parents=True, exist_ok=True)
    with replaced_folder(target) as partial:
        np.save(partial / VECTORS_FILE, snapshot.vectors)
        with pa.ipc.new_file(str(partial / ROWS_FILE), snapshot.rows.schema) as writer:
            writer.write_table(snapshot.rows, max_chunksize=1 << 20)
        counts = {"unreadable": snapshot.unreadable}
        (partial / COUNTS_FILE).write_text(json.dumps(counts), encoding="utf-8")
    for other in target.parent.glob("snapshot-*"):
        if other != target:
            shutil.rmtree(other, ignore_errors=True)
