"""Shuffle a stream in a bounded memory, so that it can be left at any row and taken up again."""

import heapq
from typing import Any

from .dealing import Consumer, PlacedRow, RowPlace
from .interleave import MixedRows


class ShuffledRows:
    """Rows in the order of (their number + a random delay).

    Row i gets the key i + delay, with a delay drawn uniformly below twice the buffer size; rows
    leave in the order of their keys. About `buffer_size` rows are held, on average one leaves for
    each that enters, and none stays longer than the maximum delay. A buffer from which random rows
    leave may keep some forever, so it can only be saved together with its rows; this one is
    refilled by reading again from its oldest row.

    Args:
        rows: what to shuffle.
        buffer_size: rows held, on average; 0 leaves the order.
        consumer: whose random numbers to use.
        left_before: key of the last row that left, where `rows` are taken up at the oldest held.
    """

    def __init__(
        self,
        rows: MixedRows,
        buffer_size: int,
        consumer: Consumer,
        left_before: float = -1.0,
    ):
        self.rows = rows
        self.longest_delay = 2 * buffer_size
        self.delays = consumer.random(1, drawn=rows.count)
        self.left_before = left_before
        #: Rows held: key, number, position before it, row.
        self.held: list[tuple[float, int, Any, PlacedRow]] = []
        self.is_draining = False

    def state(self) -> dict:
        """Where to go on, as plain values: the position of the oldest row held, and what left."""
        if self.held:
            position = min(self.held, key=lambda entry: entry[1])[2]
            return {"position": position, "left_before": self.left_before}
        left_before = -1.0 if self.is_draining else self.left_before
        return {"position": self.rows.position(), "left_before": left_before}

    def pending(self) -> list[RowPlace]:
        """The rows held, and the pending ones of other consumers that have not been read."""
        return [entry[3].place for entry in self.held] + self.rows.unread()

    def read(self) -> PlacedRow | None:
        """The next row in shuffled order; None at the end."""
        while True:
            if self.held and (self.is_draining or self.held[0][0] <= self.rows.count):
                self.left_before, _, _, row = heapq.heappop(self.held)
                return row
            if self.is_draining:
                # What comes now, in the next pass, is shuffled apart from what was.
                self.is_draining, self.left_before = False, -1.0
                if not self.rows.is_endless:
                    return None
            self.take()

    def take(self):
        """Read one more row, and hold it unless it had already left before resuming."""
        position = self.rows.position()
        row = self.rows.read()
        if row is None:
            self.is_draining = True
            return
        number = position[0]
        key = number + self.longest_delay * self.delays.random()
        if key > self.left_before:
            heapq.heappush(self.held, (key, number, position, row))
