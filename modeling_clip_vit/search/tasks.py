"""Shards that other processes and machines embed: what one is, and what is made of it.

A task says which pictures; `TaskWorker` makes an Arrow file of their rows in the staging folder of
the index; the process that has the table puts the files in. A task that is done twice writes the
same file, and rows are put in by their ids, so that nothing is there twice.

Shape legend: `P` projection.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .index import STAGING_FOLDER, PictureIndex
from .known import KnownContents, fill_known
from .pixel_encoder import pick_encoder
from .reading import Item, PictureReader
from .schema import VECTOR
from .shards import ShardEmbedder
from .state import upsert, writing

#: Columns of an item that a task carries.
ITEM_COLUMNS = ("id", "path", "root", "name", "size", "modified")


@dataclass(frozen=True)
class Task:
    """Pictures that one worker embeds.

    Args:
        number: of the task in its run.
        columns: of each picture file, as `Item.columns`; empty for a file of a dataset.
        source: path and options of a dataset; empty for picture files.
        file: of the dataset.
        prefix: what ids of the dataset begin with.
    """

    number: int
    columns: list[dict[str, Any]] = field(default_factory=list)
    source: dict[str, Any] = field(default_factory=dict)
    file: str = ""
    prefix: str = ""

    def read(self) -> Iterable[Item]:
        """The pictures, those of a dataset one after the other."""
        if not self.source:
            return [Item(dict(columns)) for columns in self.columns]
        from .dataset import DatasetOptions, DatasetReader

        reader = DatasetReader(self.source["path"], DatasetOptions(**self.source["options"]))
        for name, shards, number in reader.files():
            if name == self.file:
                return reader.items(name, shards, number, self.prefix)
        return []

    @property
    def staged(self) -> str:
        """The name of its Arrow file: another one for other pictures."""
        ids = "\n".join(f"{it['id']} {it['size']} {it['modified']}" for it in self.columns)
        digest = hashlib.sha256(f"{ids}{self.source}{self.file}".encode()).hexdigest()[:16]
        return f"{STAGING_FOLDER}/{self.number:06}-{digest}.arrow"


class TaskWorker:
    """Embeds the pictures of tasks; made once in each process.

    Args:
        index: path or URL of the index, which the worker must reach.
        checkpoint, runtime: as for `pick_encoder`.
        threads: threads that read pictures and that the model computes with.
        batch_size: pictures that are embedded at a time.
        video_seconds: seconds between two frames of a video.
    """

    def __init__(
        self,
        index: str,
        checkpoint: str,
        runtime: str = "auto",
        threads: int = 1,
        batch_size: int = 64,
        video_seconds: float = 10.0,
    ):
        self.index = PictureIndex.open(index)
        self.checkpoint, self.runtime = checkpoint, runtime
        self.threads, self.batch_size, self.video_seconds = threads, batch_size, video_seconds

    @cached_property
    def embedder(self) -> ShardEmbedder:
        """Embeds a shard; vectors of contents that the index has are filled in from the table."""
        encoder = pick_encoder(self.index, self.checkpoint, self.runtime, self.threads)
        known = KnownContents.read(self.index.table)
        preparation = self.index.image_encoder().preparation
        reader = PictureReader(preparation, known.__contains__, self.video_seconds)
        pool = ThreadPoolExecutor(self.threads)
        return ShardEmbedder(reader, encoder, self.index.schema, pool, self.batch_size)

    def __call__(self, task: Task) -> str:
        """Embed the pictures of a task; the name of the file with their rows."""
        rows, gone = self.embedder(task.read())
        rows = rows.replace_schema_metadata({"gone": "\n".join(gone)})
        self.index.place.write(task.staged, as_bytes(rows))
        return task.staged


def commit_staged(index: PictureIndex):
    """Put in what a run that was killed had made, and empty the staging folder."""
    for name in index.place.list(STAGING_FOLDER):
        if name.endswith(".arrow"):
            rows, _ = complete(index, read_staged(index, name)[0])
            with writing(index.name):
                upsert(index.table, rows)
        index.place.remove(name)


def complete(index: PictureIndex, rows: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Rows with the vectors of known contents, without those whose content is not known after all.

    Those are found again by the next run.

    Returns:
        The rows, and where the vectors come from, see `fill_known`.
    """
    rows, origins = fill_known(rows, index.table)
    lost = pc.and_(pc.is_null(rows[VECTOR]), pc.is_null(rows["error"]))
    return rows.filter(pc.invert(lost)), origins


def as_bytes(rows: pa.Table) -> bytes:
    """A table as an Arrow file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()


def read_staged(index: PictureIndex, name: str) -> tuple[pa.Table, list[str]]:
    """The rows of a staged file, and the ids of files that were gone."""
    content = index.place.read(name)
    if content is None:
        raise FileNotFoundError(f"{name} is not in {index.name}")
    rows = pa.ipc.open_file(pa.BufferReader(content)).read_all()
    gone = (rows.schema.metadata or {}).get(b"gone", b"").decode()
    return rows.replace_schema_metadata(None), gone.split("\n") if gone else []
