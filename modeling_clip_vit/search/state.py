"""What a table of pictures holds: columns of it, and rows by the values of one column."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from ..utils.errors import one_line
from ..utils.folders import saving
from .place import HINT

#: Values of a column that are looked for at a time.
VALUES_AT_A_TIME = 1000


def column_batches(table: Any, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Some columns of all rows, a batch at a time."""
    yield from table.search().select(list(columns)).to_batches(65536)


def read_columns(table: Any, columns: Sequence[str]) -> pa.Table:
    """Some columns of all rows."""
    schema = pa.schema([table.schema.field(name) for name in columns])
    return pa.Table.from_batches(
        [batch.select(list(columns)) for batch in column_batches(table, columns)], schema
    )


def rows_where(table: Any, column: str, values: Sequence[str], columns: Sequence[str]) -> pa.Table:
    """Some columns of the rows in which another column has one of these values."""
    from lancedb.expr import col

    schema = pa.schema([table.schema.field(name) for name in columns])
    parts = [schema.empty_table()]
    for start in range(0, len(values), VALUES_AT_A_TIME):
        chosen = col(column).isin(list(values[start : start + VALUES_AT_A_TIME]))
        found = table.search().where(chosen).select(list(columns)).to_arrow()
        parts.append(found.select(list(columns)).cast(schema))
    return pa.concat_tables(parts)


@contextmanager
def writing(name: str) -> Iterator[None]:
    """Turn what LanceDB raises where it cannot write into one sentence.

    Args:
        name: of the index.

    Raises:
        SaveError: the disk is full, or the system refused otherwise.
    """
    with saving(name, HINT):
        try:
            yield
        except (RuntimeError, OSError) as error:
            # Without the line of Rust that it ends with.
            reason = re.sub(r",? *\S+\.rs:\d+(:\d+)?", "", one_line(error))
            raise type(error)(reason.removeprefix("lance error: ")) from error


def upsert(table: Any, rows: pa.Table):
    """Put rows into the table in one commit, in the place of those with the same ids."""
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    # A row of a picture that cannot be read has no vector, and "null" keeps it so.
    merge.execute(rows, on_bad_vectors="null")


def delete_ids(table: Any, ids: Sequence[str]):
    """Delete rows by their ids."""
    from lancedb.expr import col

    for start in range(0, len(ids), VALUES_AT_A_TIME):
        table.delete(col("id").isin(list(ids[start : start + VALUES_AT_A_TIME])))
