"""Bring the table of an index in step with a folder: new, changed, moved and deleted files."""

import logging
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from ..utils.folders import saving
from .changes import Changes, find_changes
from .index import PictureIndex
from .known import KnownContents, fill_known
from .place import HINT
from .reading import Item, PictureReader
from .scan import Scan, scan_folder
from .schema import VECTOR
from .settings import PictureIndexError
from .shards import PixelEncoder, ShardEmbedder
from .state import delete_ids, upsert

logger = logging.getLogger(__name__)

#: Pictures of a shard, which is one commit.
SHARD_SIZE = 1024
#: How long versions of the table are kept for searches that have them open.
KEPT = timedelta(hours=1)
#: Seconds between two lines of progress.
PROGRESS_SECONDS = 10.0


@dataclass
class UpdateOptions:
    """How an index is brought in step.

    Args:
        threads: threads that read and decode pictures.
        batch_size: pictures that are embedded at a time.
        allow_empty: whether a folder that has become empty empties its part of the index.
    """

    threads: int
    batch_size: int = 64
    allow_empty: bool = False


@dataclass
class Report:
    """What a run has done.

    Args:
        new, changed, moved, deleted: pictures; of a moved one, the vector was kept.
        same: pictures that were as before.
        unreadable: those among the new and changed ones that could not be read.
        seconds: that it took.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    same: int = 0
    unreadable: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = [
            f"{value:,} {name}"
            for name in ("new", "changed", "moved", "deleted", "unreadable")
            if (value := getattr(self, name))
        ]
        read = self.new + self.changed
        speed = f", {read / self.seconds:.0f} files/s" if read and self.seconds else ""
        return f"{', '.join(counts) or 'nothing new'}, {self.same:,} as before{speed}"


class FolderUpdate:
    """One run over a folder of picture files.

    Args:
        index: to bring in step.
        root: the folder.
        encoder: embeds pixels.
        options: how.
    """

    def __init__(
        self, index: PictureIndex, root: Path, encoder: PixelEncoder, options: UpdateOptions
    ):
        self.index, self.encoder, self.options = index, encoder, options
        self.root = root.expanduser().resolve()
        self.table = index.table
        self.prefix = id_prefix(index, self.root)
        self.report = Report()

    def run(self) -> Report:
        """Bring the table in step, a shard at a time.

        Raises:
            PictureIndexError: the folder is not there, has become empty, or vanishes meanwhile.
            SaveError: the disk is full.
        """
        started = time.monotonic()
        scan = scan_folder(self.root)
        changes = find_changes(scan, self.table, self.prefix)
        self.check(scan, changes)
        self.warn(scan)
        vanished = set(changes.vanished)
        with ThreadPoolExecutor(self.options.threads) as pool:
            gone = self.embed_all(changes, vanished, pool)
        self.report.same = changes.same
        deleted = sorted(vanished.union(gone))
        self.check_root()
        with saving(self.index.name, HINT):
            delete_ids(self.table, deleted)
            self.report.deleted = max(0, len(vanished) - self.report.moved)
            if changes.to_read.num_rows or deleted:
                self.table.optimize(cleanup_older_than=KEPT)
        self.report.seconds = time.monotonic() - started
        return self.report

    def check(self, scan: Scan, changes: Changes):
        """Refuse to take a folder for empty that may only not be mounted.

        Raises:
            PictureIndexError: it is empty.
        """
        if scan.files.num_rows or scan.closed:
            return
        if not changes.vanished:
            raise PictureIndexError(f"{str(self.root)!r} holds no picture")
        if not self.options.allow_empty:
            raise PictureIndexError(
                f"{str(self.root)!r} holds no picture any more, but {len(changes.vanished):,} "
                "are in the index: if its disk is there, --allow_empty takes them out"
            )

    def warn(self, scan: Scan):
        """Say what is passed over, the first few by name."""
        closed = [f"{folder or '.'!r} (a folder that cannot be read)" for folder in scan.closed]
        left_out = closed + scan.left_out
        if left_out:
            more = [f"and {len(left_out) - 5} more"] if len(left_out) > 5 else []
            logger.warning("left out of %s: %s", self.root, "; ".join(left_out[:5] + more))

    def check_root(self):
        """Stop if the folder is not there any more.

        Raises:
            PictureIndexError: it is not; what was indexed before stays.
        """
        if not self.root.is_dir():
            raise PictureIndexError(
                f"{str(self.root)!r} is not there any more: nothing was taken out of the index, "
                "and the next run goes on"
            )

    def embed_all(
        self, changes: Changes, vanished: set[str], pool: ThreadPoolExecutor
    ) -> list[str]:
        """Read, embed and commit what is new or changed; the ids of files that are gone."""
        known = KnownContents.read(self.table)
        preparation = self.index.image_encoder().preparation
        readers = PictureReader(preparation, known.__contains__), PictureReader(preparation)
        embed, embed_anew = (
            ShardEmbedder(reader, self.encoder, self.index.schema, pool, self.options.batch_size)
            for reader in readers
        )
        total, done, gone = changes.to_read.num_rows, 0, []
        progress = Progress(total)
        for items in self.shards(changes.to_read):
            rows, missing = self.embed_shard(items, embed, embed_anew, vanished)
            self.check_root()
            with saving(self.index.name, HINT):
                upsert(self.table, rows)
            gone += missing
            done += len(items)
            progress(done)
        self.report.changed = changes.changed
        self.report.new = total - changes.changed - self.report.moved - len(gone)
        return gone

    def shards(self, files: pa.Table) -> Iterator[list[Item]]:
        """The files to read, a shard at a time."""
        for start in range(0, files.num_rows, SHARD_SIZE):
            yield [
                Item({**row, "root": str(self.root), "name": row["path"].rpartition("/")[2]})
                for row in files.slice(start, SHARD_SIZE).to_pylist()
            ]

    def embed_shard(
        self,
        items: list[Item],
        embed: Callable[[list[Item]], tuple[pa.Table, list[str]]],
        embed_anew: Callable[[list[Item]], tuple[pa.Table, list[str]]],
        vanished: set[str],
    ) -> tuple[pa.Table, list[str]]:
        """The rows of a shard, and the ids of files that are gone."""
        rows, gone = embed(items)
        rows, origins = fill_known(rows, self.table)
        lost = pc.and_(pc.is_null(rows[VECTOR]), pc.is_null(rows["error"]))
        if pc.any(lost).as_py():  # a hash that only begins like a known one
            ids = set(rows["id"].filter(lost).to_pylist())
            again, more = embed_anew([item for item in items if item.columns["id"] in ids])
            rows, gone = pa.concat_tables([rows.filter(pc.invert(lost)), again]), gone + more
        self.report.unreadable += rows.num_rows - rows["error"].null_count
        moved_from = {row["sha256"] for row in origins.to_pylist() if row["id"] in vanished}
        own = set(origins["id"].to_pylist())
        self.report.moved += sum(
            row["sha256"] in moved_from and row["id"] not in own
            for row in rows.select(["id", "sha256"]).to_pylist()
        )
        return rows, gone


def id_prefix(index: PictureIndex, root: Path) -> str:
    """What ids of a root begin with: nothing for the first one, so that its ids are the paths."""
    first = next(iter(index.settings.sources), None)
    return "" if first is None or first.path == str(root) else f"{root.as_posix()}/"


class Progress:
    """Says on stderr how far a run is, now and then.

    Args:
        total: pictures to read.
    """

    def __init__(self, total: int):
        self.total, self.started = total, time.monotonic()
        self.said = self.started

    def __call__(self, done: int):
        """Say so many pictures are done, unless something was said just now."""
        now = time.monotonic()
        if now - self.said > PROGRESS_SECONDS:
            self.said = now
            speed = done / (now - self.started)
            print(f"{done:,} of {self.total:,} files, {speed:.0f} files/s", file=sys.stderr)
