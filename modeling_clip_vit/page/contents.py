"""The readable pictures of one version of an index.

Shape legend: `N` pictures, `P` projection, `K` chosen ones.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from ..search.index import PictureIndex
from ..search.snapshot import local_version, open_snapshot, read_table

#: With more pictures, vectors stay on the disk until they are needed.
MOST_IN_MEMORY = 200_000
#: What is read of a larger index, besides the columns that the page shows.
NEEDED_COLUMNS = ("id", "path", "root", "name", "sha256", "width", "height", "caption", "time")
#: LanceDB's number of a row.
ROW_NUMBER = "_rowid"


@dataclass(frozen=True)
class Contents:
    """The readable pictures of one version of an index.

    Args:
        version: of the table.
        rows: columns of the pictures without their vectors, (N,).
        vectors: float32 (N, P); None if they are too many to hold.
        table: LanceDB's, at that version.
    """

    version: int
    rows: pa.Table
    vectors: np.ndarray | None
    table: Any

    def __len__(self) -> int:
        return len(self.rows)

    def vectors_at(self, places: np.ndarray) -> np.ndarray:
        """The vectors of the pictures at some places of `rows`: float32 (K, P)."""
        if self.vectors is not None:
            return np.asarray(self.vectors[places])
        chosen = self.rows.take(places)
        query = self.table.take_row_ids(chosen[ROW_NUMBER].to_pylist())
        found = query.select(["id", "vector"]).to_arrow().to_pylist()
        by_id = {row["id"]: row["vector"] for row in found}
        return np.array([by_id[id] for id in chosen["id"].to_pylist()], np.float32)


def version_of(index: PictureIndex) -> int:
    """The version of an index's table as it is now."""
    folder = index.place.folder
    version = None if folder is None else local_version(folder)
    if version is None:
        index.table.checkout_latest()
        version = int(index.table.version)
    return version


def read_contents(
    index: PictureIndex, columns: list[str], most_in_memory: int = MOST_IN_MEMORY
) -> Contents:
    """Read an index as it is now.

    Args:
        index: an opened index.
        columns: that the page shows.
        most_in_memory: pictures whose vectors are held.
    """
    folder, version = index.place.folder, version_of(index)
    table = index.database.open_table(index.table.name)
    kept = None if folder is None else open_snapshot(folder, version)
    if kept is not None:
        return Contents(version, kept.rows, kept.vectors, table)
    if table.count_rows() <= most_in_memory:
        read = read_table(table, index.settings.model.embedding_size)
        return Contents(version, read.rows, read.vectors, table)
    names = [*NEEDED_COLUMNS, *(it for it in columns if it not in (*NEEDED_COLUMNS, "folder"))]
    query = table.search().where("vector IS NOT NULL").select(names).with_row_id(True)
    return Contents(version, query.to_arrow(), None, table)
