"""Which contents an index has vectors of already, and those vectors."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .schema import VECTOR
from .state import column_batches, rows_where

#: Columns that follow from the content of a file alone.
CONTENT_COLUMNS = (
    *("pixel_hash", "perceptual_hash", "width", "height", "taken", "camera"),
    *("latitude", "longitude", VECTOR),
)


class KnownContents:
    """The contents that a table has vectors of, by the beginning of their hashes (8 bytes each).

    Args:
        prefixes: sorted, uint64.
    """

    def __init__(self, prefixes: np.ndarray):
        self.prefixes = prefixes

    @classmethod
    def read(cls, table: Any) -> "KnownContents":
        """Those of a table of pictures."""
        found = []
        for batch in column_batches(table, ["sha256", "error"]):
            hashes = batch["sha256"].filter(pc.is_null(batch["error"])).drop_null()
            found += [int(text[:16], 16) for text in hashes.to_pylist()]
        return cls(np.unique(np.array(found, np.uint64)))

    def __contains__(self, sha256: object) -> bool:
        prefix = np.uint64(int(str(sha256)[:16], 16))
        place = int(np.searchsorted(self.prefixes, prefix))
        return place < len(self.prefixes) and bool(self.prefixes[place] == prefix)


def fill_known(rows: pa.Table, table: Any) -> tuple[pa.Table, pa.Table]:
    """Give rows of known contents their vectors and what else follows from the content.

    Args:
        rows: of a shard; those without a vector and an error are of known contents.
        table: of pictures.

    Returns:
        The rows, and the `id` and `sha256` of the rows that were looked at.
    """
    lacking = pc.and_(pc.is_null(rows[VECTOR]), pc.is_null(rows["error"]))
    hashes = pc.unique(rows["sha256"].filter(lacking)).to_pylist()
    columns = ["id", "sha256", *CONTENT_COLUMNS]
    found = rows_where(table, "sha256", hashes, columns)
    found = found.filter(pc.is_valid(found[VECTOR]))
    places = pc.index_in(rows["sha256"], value_set=found["sha256"])
    places = pc.if_else(lacking, places, pa.scalar(None, pa.int32()))
    for name in CONTENT_COLUMNS:
        kept = rows[name].combine_chunks()
        taken = found[name].take(places)
        filled = pc.coalesce(kept, taken) if name != VECTOR else choose(kept, taken, places)
        rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), filled)
    return rows, found.select(["id", "sha256"])


def choose(kept: pa.Array, taken: pa.ChunkedArray, places: pa.ChunkedArray) -> pa.Array:
    """Vectors of rows: those that were taken from the table where there is a place."""
    both = pa.chunked_array([kept, *taken.chunks], type=kept.type)
    own = pa.array(np.arange(len(kept)), pa.int64())
    others = pa.array(np.arange(len(kept), 2 * len(kept)), pa.int64())
    return both.take(pc.if_else(pc.is_valid(places), others, own)).combine_chunks()
