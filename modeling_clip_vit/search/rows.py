"""The encoded pictures of rows: files, rows of datasets, frames of videos."""

import io
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from .formats import frame_at
from .settings import IndexSource, PictureIndexError

#: Row of a dataset at the end of an id.
ROW_NUMBER = re.compile(r"^(.*)#(\d+)$", re.DOTALL)


def read_picture(row: Mapping[str, Any], sources: list[IndexSource]) -> bytes:
    """The encoded picture of a row.

    Args:
        row: with `id`, `path`, `root` and `time`.
        sources: of the index.

    Raises:
        PictureIndexError: it is not there any more, or lies outside its root.
    """
    try:
        found = ROW_NUMBER.match(row["id"])
        if found and found[1].endswith(row["path"]):
            return read_row(row, int(found[2]), sources)
        file = find_file(row)
        if row.get("time") is not None:
            return encode(frame_at(file, row["time"]))
        return file.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        raise PictureIndexError(f"{row['id']!r} cannot be read: {reason}") from error


def find_file(row: Mapping[str, Any]) -> Path:
    """The file of a row.

    Raises:
        PictureIndexError: it lies outside the folder that was indexed.
    """
    root = Path(row["root"]).resolve()
    file = (root / row["path"]).resolve()
    if not file.is_relative_to(root):
        raise PictureIndexError(f"{row['id']!r} lies outside {row['root']!r}, and is not shown")
    return file


def read_row(row: Mapping[str, Any], number: int, sources: list[IndexSource]) -> bytes:
    """The encoded picture of a dataset's row.

    Raises:
        PictureIndexError: it is not there any more.
    """
    of_root = (source for source in sources if source.root == row["root"])
    source = next((it for it in of_root if row["path"] in it.options.get("files", {})), None)
    if source is None:
        raise PictureIndexError(f"the index does not know the dataset of {row['id']!r} any more")
    column = source.options["image_column"]
    if row["path"].endswith((".parquet", ".pq")) and "://" not in row["root"]:
        return read_parquet_row(find_file(row), number, column)
    return read_stream_row(source, row["path"], number)


def read_parquet_row(file: Path, number: int, column: str) -> bytes:
    """The picture of one row of a Parquet file, of which one group of rows is read and kept."""
    import pyarrow.parquet as pq

    modified = file.stat().st_mtime_ns
    start = 0
    metadata = pq.read_metadata(file)
    for group in range(metadata.num_row_groups):
        stop = start + metadata.row_group(group).num_rows
        if number < stop:
            value = read_row_group(file, modified, group, column)[number - start].as_py()
            return value["bytes"] if isinstance(value, dict) else value
        start = stop
    raise PictureIndexError(f"{str(file)!r} has no row {number} any more")


@lru_cache(maxsize=2)
def read_row_group(file: Path, modified: int, group: int, column: str) -> Any:
    """The pictures of a group of rows of a Parquet file, as it was when it last changed."""
    import pyarrow.parquet as pq

    return pq.ParquetFile(file).read_row_group(group, columns=[column])[column].combine_chunks()


def read_stream_row(source: IndexSource, path: str, number: int) -> bytes:
    """The picture of one row of a file that is read in order, such as a tar."""
    from ..data.rows import Row
    from .dataset import DatasetOptions, DatasetReader

    names = ("split", "image_column", "caption_column", "columns")
    options = {name: source.options[name] for name in names if name in source.options}
    reader = DatasetReader(source.path, DatasetOptions(**options))
    for name, shards, shard in reader.files():
        if name != path:
            continue
        for found, row in shards.read(shard, number, lambda it: it == number):
            if found == number and isinstance(row, Row):
                return reader.picture_of(row)[0]
    raise PictureIndexError(f"{path!r} has no row {number} any more")


def encode(image: Any) -> bytes:
    """A frame as a JPEG."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92)
    return stream.getvalue()
