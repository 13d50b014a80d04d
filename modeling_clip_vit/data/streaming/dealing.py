"""How the rows of a stream are dealt to consumers, and dealt anew to another number of them.

A consumer is one worker of one process.
"""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, field, replace
from typing import NamedTuple

import numpy as np

from ..rows import Row, SkippedSample


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


class RowPlace(NamedTuple):
    """Which row of a stream: number of its source, passes over it before, shard, row in it."""

    source: int
    passes: int
    shard: int
    row: int


class PlacedRow(NamedTuple):
    """A row, and which one of the stream it is."""

    place: RowPlace
    row: Row | SkippedSample


@dataclass(frozen=True)
class ShardPart:
    """Rows of a shard: those from `start` on whose number is `offset` modulo `step`."""

    shard: int
    offset: int = 0
    step: int = 1
    start: int = 0

    def share(self, number: int, count: int) -> "ShardPart":
        """One of `count` parts of this part, which take its rows in turn."""
        return replace(self, offset=self.offset + number * self.step, step=self.step * count)


def deal_parts(parts: list[ShardPart], consumer: Consumer) -> list[ShardPart]:
    """What one consumer reads; together, the consumers read every row of every part once.

    Consumers get whole parts as far as these divide evenly. Each remaining part is read by several
    consumers, which take its rows in turn: reading it twice costs less than decoding with half of
    the workers.

    Args:
        parts: of a pass, in their order, the same for all consumers.
        consumer: the one that reads.
    """
    dealt = len(parts) // consumer.count * consumer.count
    own = parts[consumer.number : dealt : consumer.count]
    shared = parts[dealt:]
    if shared:
        place = consumer.number % len(shared)
        sharing = range(place, consumer.count, len(shared))
        own.append(shared[place].share(consumer.number // len(shared), len(sharing)))
    return own


@dataclass(frozen=True)
class SourceRemainder:
    """What remains of the passes over a source that had been begun.

    Args:
        first: number of the first of these passes.
        passes: for each of them, the parts of shards that nobody has read.
    """

    first: int = 0
    passes: list[list[ShardPart]] = field(default_factory=list)

    @property
    def end(self) -> int:
        """Number of the first pass that is dealt as usual."""
        return self.first + len(self.passes)


@dataclass(frozen=True)
class Remainder:
    """What remains of an epoch for new consumers, where other consumers stopped.

    Args:
        samples: samples of the epoch that were delivered.
        pending: rows that had been read, to be shuffled and sorted, but were not delivered; sorted.
        sources: what had not been read, for each source.
    """

    samples: int
    pending: list[RowPlace]
    sources: list[SourceRemainder]

    def pending_of(self, consumer: Consumer) -> list[RowPlace]:
        """The pending rows of one consumer, which gets about as many as any other."""
        begin, end = (
            len(self.pending) * number // consumer.count
            for number in (consumer.number, consumer.number + 1)
        )
        return self.pending[begin:end]

    def state_dict(self) -> dict:
        """The same as plain values."""
        sources = [
            {"first": rest.first, "passes": [list(map(astuple, parts)) for parts in rest.passes]}
            for rest in self.sources
        ]
        return {"samples": self.samples, "pending": self.pending, "sources": sources}

    @classmethod
    def from_state_dict(cls, state: dict) -> "Remainder":
        """What `state_dict` gave."""
        sources = [
            SourceRemainder(
                rest["first"], [[ShardPart(*part) for part in parts] for parts in rest["passes"]]
            )
            for rest in state["sources"]
        ]
        return cls(state["samples"], to_places(state["pending"]), sources)


def to_places(numbers: Sequence[Sequence[int]]) -> list[RowPlace]:
    """Places of rows, of plain lists of their numbers."""
    return [RowPlace(*place) for place in numbers]
