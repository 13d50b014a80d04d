"""A folder of picture files as a source of an index."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from .changes import Changes, find_changes
from .formats import STILL_SUFFIXES, VIDEO_SUFFIXES
from .index import PictureIndex
from .reading import Item
from .scan import Scan, scan_folder
from .settings import PictureIndexError
from .tasks import Task
from .update import Plan, prefixed

logger = logging.getLogger(__name__)


def plan_folder(
    index: PictureIndex,
    root: Path,
    shard_size: int,
    allow_empty: bool = False,
    has_videos: bool = False,
) -> Plan:
    """What is to be done so that an index says what a folder holds.

    Args:
        index: to bring in step.
        root: the folder.
        shard_size: pictures of a shard, which is one commit.
        allow_empty: whether a folder that has become empty empties its part of the index.
        has_videos: whether videos are indexed, too.

    Raises:
        PictureIndexError: the folder is not there, or has become empty.
    """
    scan = scan_folder(root, STILL_SUFFIXES | VIDEO_SUFFIXES if has_videos else STILL_SUFFIXES)
    changes = find_changes(scan, index.table)
    check_empty(scan, changes, allow_empty)
    warn(scan)
    paths = changes.to_read["path"].to_pylist()
    prefix = prefixed(index, str(scan.root))
    videos = {prefix + path for path in paths if path.lower().endswith(tuple(VIDEO_SUFFIXES))}
    return Plan(
        root=str(scan.root),
        shards=make_shards(scan.root, changes.to_read, prefix, shard_size),
        total=len(paths),
        tasks=lambda: make_tasks(scan.root, changes.to_read, prefix, shard_size),
        changed=changes.changed,
        same=changes.same,
        vanished=changes.vanished,
        several=videos,
        check=lambda: check_root(scan.root),
    )


def make_shards(root: Path, files: pa.Table, prefix: str, shard_size: int) -> Iterator[list[Item]]:
    """The files to read, a shard at a time."""
    for start in range(0, files.num_rows, shard_size):
        yield [
            Item(
                {
                    **row,
                    "id": prefix + row["path"],
                    "root": str(root),
                    "name": row["path"].rpartition("/")[2],
                }
            )
            for row in files.slice(start, shard_size).to_pylist()
        ]


def make_tasks(root: Path, files: pa.Table, prefix: str, shard_size: int) -> Iterator[Task]:
    """The same as tasks for other processes."""
    for number, items in enumerate(make_shards(root, files, prefix, shard_size)):
        yield Task(number, columns=[item.columns for item in items])


def check_empty(scan: Scan, changes: Changes, allow_empty: bool):
    """Refuse to take a folder for empty that may only not be mounted.

    Raises:
        PictureIndexError: it is empty.
    """
    if scan.files.num_rows or scan.closed:
        return
    if not changes.vanished:
        raise PictureIndexError(f"{str(scan.root)!r} holds no picture")
    if not allow_empty:
        raise PictureIndexError(
            f"{str(scan.root)!r} holds no picture any more, but {len(changes.vanished):,} are in "
            "the index: if its disk is there, --allow_empty takes them out"
        )


def check_root(root: Path):
    """Stop if a folder is not there any more.

    Raises:
        PictureIndexError: it is not; what was indexed before stays.
    """
    if not root.is_dir():
        raise PictureIndexError(
            f"{str(root)!r} is not there any more: nothing was taken out of the index, and the "
            "next run goes on"
        )


def warn(scan: Scan):
    """Say what is passed over, the first few by name."""
    closed = [f"{folder or '.'!r} (a folder that cannot be read)" for folder in scan.closed]
    left_out = closed + scan.left_out
    if left_out:
        more = [f"and {len(left_out) - 5} more"] if len(left_out) > 5 else []
        logger.warning("left out of %s: %s", scan.root, "; ".join(left_out[:5] + more))
