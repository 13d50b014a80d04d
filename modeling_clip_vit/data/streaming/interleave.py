"""The rows of a stream for one consumer: shard after shard, several sources mixed.

Reading can stop at any row and resume from a position, which consists of plain numbers.
"""

import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Literal

import numpy as np

from ..errors import DataError
from ..rows import Row, SkippedSample
from ..sources import Shards
from .dealing import (
    Consumer,
    PlacedRow,
    Remainder,
    RowPlace,
    ShardPart,
    SourceRemainder,
    deal_parts,
)

StoppingStrategy = Literal["first_exhausted", "all_exhausted", "all_exhausted_without_replacement"]

#: Passes done, shards done of this pass, and the next row of the shard.
SourcePosition = tuple[int, int, int]


class SourceRows:
    """The rows of one source for one consumer, pass after pass, in another order each.

    Args:
        shards: of the source.
        number: of the source, for its order.
        consumer: who reads.
        position: where to go on; None for the beginning. Passes of -1: nothing of it falls to this
            consumer.
        remainder: what other consumers left of the first passes.
    """

    def __init__(
        self,
        shards: Shards,
        number: int,
        consumer: Consumer,
        position: SourcePosition | None = None,
        remainder: SourceRemainder | None = None,
    ):
        self.shards = shards
        self.number = number
        self.consumer = consumer
        self.remainder = remainder or SourceRemainder()
        self.passes, self.place, self.row = position or (self.remainder.first, 0, 0)
        #: Whether a pass that is dealt as usual has had a row.
        self.has_rows = self.passes > self.remainder.end or self.place > 0 or self.row > 0
        self.parts = self.deal(self.passes)
        self.rows: Iterator[tuple[int, Row | SkippedSample]] | None = None

    def position(self) -> SourcePosition:
        """Where the next row is."""
        return self.passes, self.place, self.row

    def deal(self, passes: int) -> list[ShardPart]:
        """The parts of shards of a pass."""
        passes, remainder = max(passes, 0), self.remainder
        if remainder.first <= passes < remainder.end:
            return deal_parts(remainder.passes[passes - remainder.first], self.consumer)
        key = (self.consumer.seed, self.consumer.epoch, passes, self.number)
        order = np.random.default_rng(key).permutation(len(self.shards)).tolist()
        return deal_parts([ShardPart(shard) for shard in order], self.consumer)

    def remaining(self, passes: int) -> list[ShardPart]:
        """The parts of a pass that this consumer has not read."""
        if not 0 <= self.passes <= passes:
            return []
        if passes > self.passes:
            return self.deal(passes)
        parts = self.parts[self.place :]
        return [replace(part, start=max(part.start, self.row)) for part in parts[:1]] + parts[1:]

    def read(self) -> PlacedRow | None:
        """The next row, or None once at the end of a pass."""
        while self.place < len(self.parts):
            part = self.parts[self.place]
            if self.rows is None:
                self.rows = self.open(part, max(part.start, self.row))
            for number, row in self.rows:
                self.row, self.has_rows = number + 1, True
                if isinstance(row, Row):
                    row.passes = self.passes
                return PlacedRow(RowPlace(self.number, self.passes, part.shard, number), row)
            self.place, self.row, self.rows = self.place + 1, 0, None
        self.end_pass()
        return None

    def end_pass(self):
        """Stand before the next pass; behind all of them if nothing falls to this consumer."""
        is_usual = self.passes >= self.remainder.end
        self.passes = self.passes + 1 if self.has_rows or not is_usual else -1
        self.has_rows = self.has_rows and is_usual
        self.place = 0
        self.parts = self.deal(self.passes)

    def open(self, part: ShardPart, start: int) -> Iterator[tuple[int, Row | SkippedSample]]:
        """Rows of a shard from a row on."""

        def is_wanted(row: int) -> bool:
            return row >= start and row % part.step == part.offset

        return self.shards.read(part.shard, start, is_wanted)


def read_places(sources: list[Shards], places: list[RowPlace]) -> Iterator[PlacedRow]:
    """The rows of sorted places; one that is no longer there is a `SkippedSample`."""
    for (source, passes, shard), group in groupby(places, key=lambda place: place[:3]):
        run = list(group)
        wanted = {place.row for place in run}
        rows = sources[source].read(shard, run[0].row, wanted.__contains__)
        number, row = -1, None
        for place in run:
            while number < place.row:
                number, row = next(rows, (sys.maxsize, None))
            if row is None or number > place.row:
                name = f"row {place.row} of shard {shard} of {sources[source].path}"
                yield PlacedRow(place, SkippedSample(name, "it is no longer there"))
                continue
            if isinstance(row, Row):
                row.passes = passes
            yield PlacedRow(place, row)


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
        remainder: what other consumers left of this epoch; its pending rows come first.
    """

    def __init__(
        self,
        sources: list[Shards],
        weights: list[float],
        consumer: Consumer,
        stopping_strategy: StoppingStrategy = "first_exhausted",
        is_endless: bool = False,
        position: list | None = None,
        remainder: Remainder | None = None,
    ):
        #: Rows read so far.
        self.count: int
        self.count, places = position or (0, [None] * len(sources))
        remainders = remainder.sources if remainder else [None] * len(sources)
        self.sources = [
            SourceRows(shards, number, consumer, place, rest)
            for number, (shards, place, rest) in enumerate(
                zip(sources, places, remainders, strict=True)
            )
        ]
        self.pending = remainder.pending_of(consumer) if remainder else []
        self.pending_rows = read_places(sources, self.unread())
        self.weights = np.array(weights, dtype=float)
        self.stopping_strategy = stopping_strategy
        self.is_endless = is_endless
        self.random = consumer.random(0, drawn=self.count)

    def position(self) -> tuple[int, list[SourcePosition]]:
        """Rows read so far, and where each source stands."""
        return self.count, [source.position() for source in self.sources]

    def unread(self) -> list[RowPlace]:
        """The pending rows that have not been read."""
        return self.pending[self.count :]

    def read(self) -> PlacedRow | None:
        """The next row; None at the end.

        An endless stream of one source returns None once after each pass and then continues, so
        that the shuffle does not mix a row with itself.

        Raises:
            DataError: an endless stream has no rows for this consumer.
        """
        drawn = self.random.random() if len(self.sources) > 1 else 0.0
        if self.count < len(self.pending):
            self.count += 1
            return next(self.pending_rows)
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
