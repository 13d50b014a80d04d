"""What remains of a stream's epoch, from the states of all processes that have read it."""

from collections.abc import Sequence

from ..errors import DataError
from ..sources import Shards
from .dealing import Consumer, Remainder, ShardPart, SourceRemainder, to_places
from .interleave import MixedRows, SourceRows
from .options import StreamOptions


def consumer_of(worker: int, identity: dict, epoch: int) -> Consumer:
    """The consumer that a worker of a process is.

    Args:
        worker: of the process.
        identity: of its loader.
        epoch: that it reads.
    """
    # Consecutive consumers belong to different processes, so that shards that do not suffice
    # for all consumers are still spread over all processes.
    processes, workers = identity["processes"], max(1, identity["dataloader_num_workers"])
    number = worker * processes + identity["rank"]
    return Consumer(number, workers * processes, identity["seed"], epoch)


def find_remainder(
    sources: list[Shards], options: StreamOptions, states: Sequence[dict]
) -> Remainder:
    """What is to come of the epoch in which other consumers stopped.

    Args:
        sources: of the stream.
        options: how they are mixed.
        states: of the loaders of all processes.

    Raises:
        DataError: a process is missing, or an older release saved.
    """
    check_states(states)
    is_endless = options.samples_per_epoch > 0
    earlier = states[0]["remainder"]
    samples = earlier["samples"] if earlier else 0
    pending, readers = [], []
    for state in states:
        rows_by_worker = open_rows(sources, options, state)
        for rows, saved in zip(rows_by_worker, state["workers"], strict=True):
            pending += to_places(saved["pending"]) if saved else rows.unread()
            samples += (
                saved["batches"] * state["fingerprint"]["per_device_train_batch_size"]
                if saved
                else 0
            )
            if not rows.has_ended():
                readers.append(rows.sources)
    if not is_endless:
        # A source that starts over within a pass repeats itself anyway.
        pending = [place for place in pending if place.passes == 0]
    remainders = [
        join_remainders([rows[number] for rows in readers], is_endless)
        for number in range(len(sources))
    ]
    return Remainder(samples, sorted(pending), remainders)


def check_states(states: Sequence[dict]):
    """Reject states from which nothing can be dealt anew.

    Raises:
        DataError: a process is missing, or an older release saved.
    """
    identity = states[0]["fingerprint"]
    launch = (
        f"{identity['processes']} processes with "
        f"dataloader_num_workers={identity['dataloader_num_workers']} and "
        f"per_device_train_batch_size={identity['per_device_train_batch_size']}"
    )
    if any(saved and "pending" not in saved for state in states for saved in state["workers"]):
        raise DataError(
            f"cannot go on with the stream: an older release saved its place, for {launch} only"
        )
    ranks = sorted(state["fingerprint"]["rank"] for state in states)
    if ranks != list(range(identity["processes"])):
        raise DataError(
            f"cannot go on with the stream: {launch} read it, and the place of {len(ranks)} is kept"
        )


def open_rows(sources: list[Shards], options: StreamOptions, state: dict) -> list[MixedRows]:
    """The rows of each worker of a process, from where it would have read on."""
    remainder = Remainder.from_state_dict(state["remainder"]) if state["remainder"] else None
    return [
        MixedRows(
            sources,
            options.weights(),
            consumer_of(worker, state["fingerprint"], state["epoch"]),
            options.stream_stopping_strategy,
            options.samples_per_epoch > 0,
            saved["next"] if saved else None,
            remainder,
        )
        for worker, saved in enumerate(state["workers"])
    ]


def join_remainders(readers: list[SourceRows], is_endless: bool) -> SourceRemainder:
    """What remains of a source, of all of its readers together.

    In an endless stream some may be a pass ahead: all passes up to theirs are completed.
    """
    if not is_endless:
        passes = range(1)
    else:
        begun = [rows.passes for rows in readers if rows.passes >= 0]
        passes = range(min(begun, default=0), max(begun, default=-1) + 1)
    # Shards that are to be read whole are dealt first, so that the others are shared.
    parts = [
        sorted((part for rows in readers for part in rows.remaining(number)), key=is_begun)
        for number in passes
    ]
    return SourceRemainder(passes.start, parts)


def is_begun(part: ShardPart) -> bool:
    """Whether a part of a shard lacks its first rows."""
    return part.start > 0
