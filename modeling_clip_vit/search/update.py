"""Bring the table of an index in step with its pictures: new, changed, moved and deleted ones."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from .changes import read_root
from .index import PictureIndex
from .known import KnownContents, fill_known
from .reading import Item, PictureReader
from .schema import VECTOR
from .shards import PixelEncoder, ShardEmbedder
from .state import delete_ids, upsert, writing
from .tasks import Task, complete, read_staged

#: How long versions of the table are kept for searches that have them open.
KEPT = timedelta(hours=1)
#: Pictures that cannot be read of which a report keeps the reason.
MOST_REASONS = 10
#: Seconds between two lines of progress.
PROGRESS_SECONDS = 10.0


@dataclass
class UpdateOptions:
    """How an index is brought in step.

    Args:
        threads: threads that read and decode pictures.
        batch_size: pictures that are embedded at a time.
        video_seconds: seconds between two frames of a video.
    """

    threads: int
    batch_size: int = 64
    video_seconds: float = 10.0


@dataclass
class Plan:
    """What is to be done for one source of pictures.

    Args:
        root: of its rows.
        shards: what to read, a shard at a time.
        total: number of pictures to read; None if it is not known.
        changed: how many of them have a row already.
        same: number of rows that are as they were.
        tasks: the same for other processes, as tasks.
        vanished: ids of rows without a picture.
        several: files with several pictures, by what the ids of their rows begin with before `#`;
            other rows of theirs are taken out in the end.
        check: raises an error if the source is not there any more.
    """

    root: str
    shards: Iterable[list[Item]]
    total: int | None
    tasks: Callable[[], Iterator[Task]]
    changed: int = 0
    same: int = 0
    vanished: list[str] = field(default_factory=list)
    several: set[str] = field(default_factory=set)
    check: Callable[[], None] = lambda: None


@dataclass
class Report:
    """What a run has done.

    Args:
        new, changed, moved, deleted: pictures; of a moved one, the vector was kept.
        same: pictures that were as before.
        unreadable: those among the new and changed ones that could not be read.
        reasons: ids of the first `MOST_REASONS` of them -> why.
        seconds: that it took.
    """

    new: int = 0
    changed: int = 0
    moved: int = 0
    deleted: int = 0
    same: int = 0
    unreadable: int = 0
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def __str__(self) -> str:
        names = ("new", "changed", "moved", "deleted", "unreadable")
        counts = [f"{value:,} {name}" for name in names if (value := getattr(self, name))]
        read = self.new + self.changed
        speed = f", {read / self.seconds:.0f} pictures/s" if read and self.seconds else ""
        return f"{', '.join(counts) or 'nothing new'}, {self.same:,} as before{speed}"


class Update:
    """One run over one source of pictures.

    Args:
        index: to bring in step.
        make_encoder: makes what embeds pixels, when the first picture is to be read.
        options: how.
    """

    def __init__(
        self,
        index: PictureIndex,
        make_encoder: Callable[[], PixelEncoder],
        options: UpdateOptions,
    ):
        self.index, self.make_encoder, self.options = index, make_encoder, options
        self.table = index.table
        self.report = Report()
        #: Ids of rows that were put in, of files with several pictures.
        self.seen: set[str] = set()
        #: Ids of files that were gone when they were to be read.
        self.gone: set[str] = set()
        #: Contents of rows that vanished -> rows that took their place.
        self.moved_to: Counter[str] = Counter()

    def run(self, plan: Plan, staged: Iterable[str] | None = None) -> Report:
        """Bring the table in step, a shard at a time; rows are taken out last.

        Args:
            plan: for a source.
            staged: files of rows that other processes make of the plan's tasks; None where this
                process reads and embeds.

        Raises:
            PictureIndexError: the source vanishes meanwhile.
            SaveError: the disk is full.
        """
        started = time.monotonic()
        vanished = set(plan.vanished)
        progress = Progress(plan.total)
        done = 0
        shards = self.embedded(plan, vanished) if staged is None else self.fetched(staged, vanished)
        for rows in shards:
            plan.check()
            self.commit(rows, plan.several)
            done += rows.num_rows
            progress(done)
        plan.check()
        self.take_out(plan, vanished, bool(done))
        self.report.changed, self.report.same = plan.changed, plan.same
        self.report.new = max(0, done - plan.changed - self.report.moved)
        self.report.seconds = time.monotonic() - started
        return self.report

    def embedded(self, plan: Plan, vanished: set[str]) -> Iterator[pa.Table]:
        """The rows of each shard, read and embedded here."""
        with ThreadPoolExecutor(self.options.threads) as pool:
            embedders: tuple[ShardEmbedder, ShardEmbedder] | None = None
            for items in plan.shards:
                embedders = embedders or self.embedders(pool)
                yield self.embed_shard(items, *embedders, vanished)

    def fetched(self, staged: Iterable[str], vanished: set[str]) -> Iterator[pa.Table]:
        """The rows of each shard, made by another process; its file goes once they are put in."""
        for name in staged:
            rows, gone = read_staged(self.index, name)
            self.gone.update(gone)
            rows, origins = complete(self.index, rows)
            self.count(rows, origins, vanished)
            yield rows
            self.index.place.remove(name)

    def embedders(self, pool: ThreadPoolExecutor) -> tuple[ShardEmbedder, ShardEmbedder]:
        """What embeds a shard, and what does so though the content seems known."""
        preparation, options = self.index.image_encoder().preparation, self.options
        known, encoder = KnownContents.read(self.table), self.make_encoder()

        def make(is_known: Callable[[str], bool]) -> ShardEmbedder:
            reader = PictureReader(preparation, is_known, options.video_seconds)
            schema = self.index.schema
            return ShardEmbedder(reader, encoder, schema, pool, options.batch_size)

        return make(known.__contains__), make(lambda _: False)

    def embed_shard(
        self,
        items: list[Item],
        embed: Callable[[list[Item]], tuple[pa.Table, list[str]]],
        embed_anew: Callable[[list[Item]], tuple[pa.Table, list[str]]],
        vanished: set[str],
    ) -> pa.Table:
        """The rows of a shard, complete."""
        rows, gone = embed(items)
        self.gone.update(gone)
        rows, origins = fill_known(rows, self.table)
        lost = pc.and_(pc.is_null(rows[VECTOR]), pc.is_null(rows["error"]))
        if pc.any(lost).as_py():  # a hash that only begins like a known one
            ids = set(rows["id"].filter(lost).to_pylist())
            again, _ = embed_anew([item for item in items if item.columns["id"] in ids])
            rows = pa.concat_tables([rows.filter(pc.invert(lost)), again])
        self.count(rows, origins, vanished)
        return rows

    def count(self, rows: pa.Table, origins: pa.Table, vanished: set[str]):
        """Count rows that could not be read, and those that take the place of vanished ones.

        Of several new rows with the content of one that vanished, one was moved; the others are
        copies, and count as new.
        """
        unreadable = rows.select(["id", "error"]).filter(pc.is_valid(rows["error"]))
        self.report.unreadable += unreadable.num_rows
        free = MOST_REASONS - len(self.report.reasons)
        for row in unreadable.slice(0, free).to_pylist():
            self.report.reasons[row["id"]] = row["error"]
        sources = origins.to_pylist()
        moved_from = Counter(row["sha256"] for row in sources if row["id"] in vanished)
        own = {row["id"] for row in sources}
        for row in rows.select(["id", "sha256"]).to_pylist() if moved_from else []:
            content = row["sha256"]
            if row["id"] not in own and self.moved_to[content] < moved_from[content]:
                self.moved_to[content] += 1
                self.report.moved += 1

    def commit(self, rows: pa.Table, several: set[str]):
        """Put the rows of a shard into the table."""
        with writing(self.index.name):
            upsert(self.table, rows)
        if several:
            ids = rows["id"].to_pylist()
            self.seen.update(row_id for row_id in ids if holder_of(row_id) in several)

    def take_out(self, plan: Plan, vanished: set[str], has_new: bool):
        """Delete the rows of what is not there any more, and put the table in order."""
        left = self.left_over(plan)
        deleted = sorted(vanished | self.gone | left)
        with writing(self.index.name):
            delete_ids(self.table, deleted)
            if has_new or deleted:
                self.table.optimize(cleanup_older_than=KEPT)
        self.report.deleted = max(0, len(vanished | left) - self.report.moved)

    def left_over(self, plan: Plan) -> set[str]:
        """Ids of earlier rows of files with several pictures, such as a video that was cut."""
        if not plan.several:
            return set()
        ids = read_root(self.table, plan.root)["id"].to_pylist()
        return {row_id for row_id in ids if holder_of(row_id) in plan.several} - self.seen


class Progress:
    """Says on stderr how far a run is, now and then.

    Args:
        total: pictures to read; None if it is not known.
    """

    def __init__(self, total: int | None):
        self.total, self.started = total, time.monotonic()
        self.said = self.started

    def __call__(self, done: int):
        """Print how many pictures are done, at most once in `PROGRESS_SECONDS`."""
        now = time.monotonic()
        if now - self.said > PROGRESS_SECONDS:
            self.said = now
            of = "" if self.total is None else f" of {self.total:,}"
            speed = done / (now - self.started)
            print(f"{done:,}{of} pictures, {speed:.0f}/s", file=sys.stderr)


def holder_of(row_id: str) -> str:
    """What an id has before its last `#`: the file that holds the picture."""
    return row_id.rpartition("#")[0] or row_id


def prefixed(index: PictureIndex, root: str) -> str:
    """What ids of a root begin with: nothing for the first source, so that its ids are paths."""
    first: Any = next(iter(index.settings.sources), None)
    return "" if first is None or first.root == root else f"{root}/"
