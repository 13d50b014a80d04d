"""Which consumer reads which rows of a stream, in which order, and how several sources mix.

A consumer is one worker of one process. Reading can stop at any row and resume from a position,
which consists of plain numbers.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..errors import DataError
from ..rows import Row, SkippedSample
from ..sources import Shards

StoppingStrategy = Literal["first_exhausted", "all_exhausted", "all_exhausted_without_replacement"]


@dataclass(frozen=True)
class Consumer:
    """One of the workers, of all processes together, that read a stream.

    Args:
        number: which one.
        count: how many there are.
        seed, epoch: of the order of what it reads.
    """

    number: int = 0
    count: int = 1
    seed: int = 0
    epoch: int = 0

    def random(self, purpose: int, drawn: int = 0) -> np.random.Generator:
        """This consumer's own random numbers, from the first one that was not yet drawn."""
        key = (self.seed, self.epoch, self.number, self.count, purpose)
        bits = np.random.PCG64(np.random.SeedSequence(key))
        return np.random.Generator(bits.advance(drawn))


@dataclass(frozen=True)
class ShardPart:
    """Every `step`-th row of a shard from row `offset` on."""

    shard: int
    offset: int = 0
    step: int = 1


def deal_shards(order: list[int], consumer: Consumer) -> list[ShardPart]:
    """What one consumer reads; together, the consumers read every row of every shard once.

    Consumers get whole shards as far as these divide evenly. Each remaining shard is read by
    several consumers, which take its rows in turn: reading it twice costs less than decoding with
    half of the workers.

    Args:
        order: the shards in the order of this pass, the same for all consumers.
        consumer: the one that reads.
    """
    dealt = len(order) // consumer.count * consumer.count
    parts = [ShardPart(shard) for shard in order[consumer.number : dealt : consumer.count]]
    left = order[dealt:]
    if left:
        place = consumer.number % len(left)
        sharing = range(place, consumer.count, len(left))
        parts.append(ShardPart(left[place], consumer.number // len(left), len(sharing)))
    return parts


class SourceRows:
    """The rows of one source for one consumer, pass after pass, in another order each.

    Args:
        shards: of the source.
        number: of the source, for its order.
        consumer: who reads.
        position: where to go on: passes done (-1: nothing of it falls to this consumer), shards
            done of this pass, and the next row of the shard.
    """

    def __init__(
        self, shards: Shards, number: int, consumer: Consumer, position: tuple[int, int, int]
    ):
        self.shards = shards
        self.number = number
        self.consumer = consumer
        self.passes, self.place, self.row = position
        self.has_rows = self.passes > 0 or self.place > 0 or self.row > 0
        self.parts = self.deal()
        self.rows: Iterator[tuple[int, Row | SkippedSample]] | None = None

    def position(self) -> tuple[int, int, int]:
        """Where the next row is."""
        return self.passes, self.place, self.row

    def deal(self) -> list[ShardPart]:
        """The shards of this pass."""
        key = (self.consumer.seed, self.consumer.epoch, max(self.passes, 0), self.number)
        order = np.random.default_rng(key).permutation(len(self.shards)).tolist()
        return deal_shards(order, self.consumer)

    def read(self) -> Row | SkippedSample | None:
        """The next row, or None once at the end of a pass."""
        while self.place < len(self.parts):
            if self.rows is None:
                self.rows = self.open(self.parts[self.place], self.row)
            for number, row in self.rows:
                self.row, self.has_rows = number + 1, True
                if isinstance(row, Row):
                    row.passes = self.passes
                return row
            self.place, self.row, self.rows = self.place + 1, 0, None
        self.passes = self.passes + 1 if self.has_rows else -1
        self.place = 0
        self.parts = self.deal()
        return None

    def open(self, part: ShardPart, start: int) -> Iterator[tuple[int, Row | SkippedSample]]:
        """Rows of a shard from a row on."""

        def is_wanted(row: int) -> bool:
            return row >= start and row % part.step == part.offset

        return self.shards.read(part.shard, start, is_wanted)


class MixedRows:
    """Rows of several sources, each row from a source drawn by weight, for one consumer.

    Works like `datasets.interleave_datasets`, except that each source is dealt to all consumers
    whatever its number of shards, and has a new order in each pass.

    Args:
        sources: their shards.
        weights: how often each is drawn, relative to the others.
        consumer: who reads.
        stopping_strategy: of `datasets.interleave_datasets`: when the rows of one pass end.
        is_endless: start over instead, each source on its own.
        position: where to go on, of `position()`.
    """

    def __init__(
        self,
        sources: list[Shards],
        weights: list[float],
        consumer: Consumer,
        stopping_strategy: StoppingStrategy = "first_exhausted",
        is_endless: bool = False,
        position: list | None = None,
    ):
        #: Rows read so far.
        self.count: int
        self.count, places = position or (0, [(0, 0, 0)] * len(sources))
        self.sources = [
            SourceRows(shards, number, consumer, place)
            for number, (shards, place) in enumerate(zip(sources, places, strict=True))
        ]
        self.weights = np.array(weights, dtype=float)
        self.stopping_strategy = stopping_strategy
        self.is_endless = is_endless
        self.random = consumer.random(0, drawn=self.count)

    def position(self) -> tuple[int, list[tuple[int, int, int]]]:
        """Rows read so far, and where each source stands."""
        return self.count, [source.position() for source in self.sources]

    def read(self) -> Row | SkippedSample | None:
        """The next row; None at the end.

        An endless stream of one source returns None once after each pass and then continues, so
        that the shuffle does not mix a row with itself.

        Raises:
            DataError: an endless stream has no rows for this consumer.
        """
        drawn = self.random.random() if len(self.sources) > 1 else 0.0
        while not self.has_ended():
            source = self.sources[self.choose(drawn)]
            row = source.read()
            if row is not None:
                self.count += 1
                return row
            if self.is_endless and len(self.sources) == 1 and source.passes > 0:
                return None
        return None

    def has_ended(self) -> bool:
        """Whether no row is to come."""
        passes = [source.passes for source in self.sources]
        if all(done < 0 for done in passes):
            if self.is_endless:
                paths = " and ".join(repr(source.shards.path) for source in self.sources)
                raise DataError(
                    f"{paths} has fewer rows than there are processes and workers to read them: "
                    "lower dataloader_num_workers"
                )
            return True
        if self.is_endless:
            return False
        if self.stopping_strategy == "first_exhausted":
            return any(done > 0 for done in passes)
        return all(done != 0 for done in passes)

    def choose(self, drawn: float) -> int:
        """The source that a uniform number stands for, among those that have rows."""
        once = not self.is_endless and (
            self.stopping_strategy == "all_exhausted_without_replacement"
        )
        usable = [s.passes == 0 or (s.passes > 0 and not once) for s in self.sources]
        bounds = np.cumsum(self.weights * usable)
        return int(np.searchsorted(bounds[:-1], drawn * bounds[-1], side="right"))
