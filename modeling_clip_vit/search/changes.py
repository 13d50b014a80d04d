"""What is to be done so that a table says what a folder holds."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .formats import can_be_tried_again
from .scan import Scan
from .state import column_batches


@dataclass
class Changes:
    """How a folder differs from the rows of its root.

    Args:
        to_read: files that are new, have another size or time, or could not be read for want of a
            package that is there now: `path`, `size`, `modified`.
        changed: how many of them have a row already.
        vanished: ids of rows without a file.
        same: number of rows that are as they were.
    """

    to_read: pa.Table
    changed: int
    vanished: list[str]
    same: int


def find_changes(scan: Scan, table: Any) -> Changes:
    """Compare the files of a folder with the rows of a table, by size and time.

    Args:
        scan: of the folder.
        table: of pictures.
    """
    rows = read_root(table, str(scan.root))
    files, paths = scan.files, scan.files["path"].combine_chunks()
    # All rows of a video have the size and time of its file, so the first one serves.
    places = pc.index_in(paths, value_set=rows["path"])
    equal = [pc.equal(files[name], rows[name].take(places)) for name in ("size", "modified")]
    is_same = pc.fill_null(pc.and_(*equal), False)
    errors = pc.unique(rows["error"]).drop_null().to_pylist()
    again = pa.array([error for error in errors if can_be_tried_again(error)], pa.string())
    is_same = pc.and_(is_same, pc.invert(pc.is_in(rows["error"].take(places), value_set=again)))
    is_gone = pc.is_null(pc.index_in(rows["path"], value_set=paths))
    vanished = rows.filter(pc.and_(is_gone, pc.invert(is_below(rows["path"], scan.closed))))
    return Changes(
        to_read=files.filter(pc.invert(is_same)),
        changed=int(pc.sum(pc.and_(pc.is_valid(places), pc.invert(is_same))).as_py() or 0),
        vanished=vanished["id"].to_pylist(),
        same=int(pc.sum(is_same).as_py() or 0),
    )


def read_root(table: Any, root: str) -> pa.Table:
    """`id`, `path`, `size`, `modified` and `error` of the rows of a root."""
    names = ["id", "path", "size", "modified", "error"]
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
