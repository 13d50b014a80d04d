"""The columns of the table of pictures.

Shape legend: `P` projection, the embedding.
"""

import pyarrow as pa

#: Name of the LanceDB table.
TABLE = "pictures"

#: What identifies a row: the path below its root, and `#row` or `#t=seconds` where a file holds
#: several pictures.
ID = "id"

#: Columns of every index, apart from the vector, in their order.
FIXED_COLUMNS: dict[str, pa.DataType] = {
    ID: pa.string(),
    "path": pa.string(),
    "root": pa.string(),
    "name": pa.string(),
    "size": pa.int64(),
    "modified": pa.timestamp("us", "UTC"),
    "sha256": pa.string(),
    "pixel_hash": pa.string(),
    "perceptual_hash": pa.uint64(),
    "width": pa.int32(),
    "height": pa.int32(),
    "taken": pa.timestamp("us"),
    "camera": pa.string(),
    "latitude": pa.float64(),
    "longitude": pa.float64(),
    "caption": pa.string(),
    "time": pa.float64(),
    "error": pa.string(),
}
VECTOR = "vector"
#: Names that a column of the user's own cannot have.
RESERVED_NAMES = frozenset((*FIXED_COLUMNS, VECTOR))


def table_schema(embedding_size: int, own_columns: dict[str, pa.DataType] | None = None):
    """The schema of the table of pictures.

    Args:
        embedding_size: P.
        own_columns: columns that the user chose -> their types.

    Returns:
        A schema in which `vector` is null for what could not be read.
    """
    fields = [pa.field(name, kind) for name, kind in FIXED_COLUMNS.items()]
    fields.insert(4, pa.field(VECTOR, pa.list_(pa.float32(), embedding_size)))
    fields += [pa.field(name, kind) for name, kind in (own_columns or {}).items()]
    return pa.schema(fields)
