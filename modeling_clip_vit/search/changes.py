"""What is to be done so that a table says what a folder holds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .scan import Scan
from .state import column_batches


@dataclass
class Changes:
    """How a folder differs from the rows of its root.

    Args:
        to_read: files that are new or have another size or time: `id`, `path`, `size`, `modified`.
        changed: how many of them have a row already.
        vanished: ids of rows without a file.
        same: number of rows that are as they were.
    """

    to_read: pa.Table
    changed: int
    vanished: list[str]
    same: int


def find_changes(scan: Scan, table: Any, prefix: str = "") -> Changes:
    """Compare the files of a folder with the rows of a table, by size and time.

    Args:
        scan: of the folder.
        table: of pictures.
        prefix: what ids of this root begin with before the path.
    """
    rows = read_root(table, str(scan.root))
    ids = scan.files["path"].combine_chunks()
    if prefix:
        ids = pc.binary_join_element_wise(prefix, ids, "")
    files = scan.files.add_column(0, "id", ids)
    places = pc.index_in(ids, value_set=rows["id"])
    equal = [pc.equal(files[name], rows[name].take(places)) for name in ("size", "modified")]
    is_same = pc.fill_null(pc.and_(*equal), False)
    is_gone = pc.is_null(pc.index_in(rows["id"], value_set=ids))
    vanished = rows.filter(pc.and_(is_gone, pc.invert(is_below(rows["path"], scan.closed))))
    return Changes(
        to_read=files.filter(pc.invert(is_same)),
        changed=int(pc.sum(pc.and_(pc.is_valid(places), pc.invert(is_same))).as_py() or 0),
        vanished=vanished["id"].to_pylist(),
        same=int(pc.sum(is_same).as_py() or 0),
    )


def read_root(table: Any, root: str) -> pa.Table:
    """`id`, `path`, `size` and `modified` of the rows of a root."""
    names = ["id", "path", "size", "modified"]
    schema = pa.schema([table.schema.field(name) for name in names])
    batches = [
        batch.filter(pc.equal(batch["root"], root)).select(names)
        for batch in column_batches(table, [*names, "root"])
    ]
    return pa.Table.from_batches(batches, schema).combine_chunks()


def is_below(paths: pa.ChunkedArray, folders: list[str]) -> pa.ChunkedArray:
    """Whether each path lies below one of these folders."""
    result: Any = pa.chunked_array([pa.array(np.zeros(len(paths), bool))])
    for folder in folders:
        result = pc.or_(result, pc.starts_with(paths, f"{folder}/" if folder else ""))
    return result
