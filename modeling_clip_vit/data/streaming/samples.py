"""The batches of one consumer: windows of samples, sorted by the length of their texts."""

from collections.abc import Callable, Iterator, Mapping
from itertools import chain

import numpy as np

from ..captions import stable_number
from ..errors import DataError
from ..native import SizedMakers, draw_length
from ..rows import Row, Sample, SkippedSample
from ..samples import DrawnSample, SampleMaker
from ..sources import Shards
from .dealing import Consumer, Remainder, RowPlace
from .interleave import MixedRows
from .options import StreamOptions
from .shuffle import ShuffledRows

#: This many unusable samples in one batch are an error.
LONGEST_FAILURE = 10_000

Collate = Callable[[list[Sample | SkippedSample]], dict]


class SampleBatches:
    """The batches of one consumer in one epoch.

    A batch has `batch_size` usable samples, however many are skipped on the way, so that processes
    stay in step; only the last of a single pass may have fewer.

    Args:
        sources: what is read.
        options: how.
        maker: makes samples of rows.
        collate: makes batches of samples.
        batch_size: samples a batch.
        consumer: who reads.
        state: where to go on, of `state()`.
        remainder: what other consumers left of this epoch.
        sizes: for images in their own aspect ratio, most patches of an image -> samples a batch.
        worker: number of the consumer in its process: with it, all processes draw the same numbers
            of patches.
    """

    def __init__(
        self,
        sources: list[Shards],
        options: StreamOptions,
        maker: SampleMaker,
        collate: Collate,
        batch_size: int,
        consumer: Consumer,
        state: dict | None = None,
        remainder: Remainder | None = None,
        sizes: Mapping[int, int] | None = None,
        worker: int = 0,
    ):
        state = state or {"rows": {"position": None, "left_before": -1.0}, "left": [], "batches": 0}
        self.maker, self.collate, self.consumer = maker, collate, consumer
        self.sizes, self.worker, self.makers = sizes, worker, SizedMakers(maker)
        self.batch_size = batch_size
        self.has_window = options.length_window > 1
        self.window_size = max(sizes.values() if sizes else [batch_size]) * options.length_window
        mixed = MixedRows(
            sources,
            options.weights(),
            consumer,
            options.stream_stopping_strategy,
            is_endless=options.samples_per_epoch > 0,
            position=state["rows"]["position"],
            remainder=remainder,
        )
        size = options.shuffle_buffer_size
        self.rows = ShuffledRows(mixed, size, consumer, state["rows"]["left_before"])
        self.batches = state["batches"]
        #: Where the window begins, its samples, and the places in it that are still to be used.
        self.window_start = state["rows"]
        self.window: list[DrawnSample | SkippedSample] = []
        self.window_places: list[RowPlace] = []
        self.left: list[int] = []
        if state["left"]:
            self.fill_window()
            self.left = list(state["left"])

    def state(self) -> dict:
        """Where to go on after the last batch.

        `rows`, `left` and `batches`, plain values, are for the same consumer, which goes on bit for
        bit. `next` and `pending`, int64 (rows, 4), are for others: where it reads next, and what it
        has read but not delivered.
        """
        start = self.window_start if self.left else self.rows.state()
        pending = [self.window_places[place] for place in self.left] + self.rows.pending()
        return {
            "rows": start,
            "left": list(self.left),
            "batches": self.batches,
            "next": self.rows.rows.position(),
            # An array travels to the training process at a hundredth of the cost of a list.
            "pending": np.fromiter(chain.from_iterable(pending), np.int64).reshape(-1, 4),
        }

    def __iter__(self) -> Iterator[dict]:
        """Batches up to the end, which an endless stream does not have."""
        while True:
            samples = self.collect()
            if not samples:
                return
            self.batches += 1
            yield self.collate(samples)

    def collect(self) -> list[Sample | SkippedSample]:
        """The samples of a batch, with those that were skipped on the way.

        Raises:
            DataError: none is usable for too long.
        """
        if not self.left:
            self.fill_window()
        maker = self.maker
        if self.sizes is not None:
            key = (self.consumer.seed, self.consumer.epoch, self.worker, self.batches)
            length = draw_length(list(self.sizes), key)
            maker, self.batch_size = self.makers[length], self.sizes[length]
        place = self.choose_place()
        samples: list[Sample | SkippedSample] = []
        usable = 0
        while usable < self.batch_size:
            drawn = self.take(place)
            if drawn is None:
                break
            sample = maker.decode(drawn) if isinstance(drawn, DrawnSample) else drawn
            samples.append(sample)
            usable += isinstance(sample, Sample)
            if isinstance(sample, SkippedSample) and len(samples) - usable >= LONGEST_FAILURE:
                raise DataError(
                    f"{LONGEST_FAILURE:,} samples of one batch cannot be used; the last: "
                    f"{sample.name} ({sample.reason})"
                )
        return samples

    def fill_window(self):
        """Draw the samples of the next window and order them by length."""
        self.window_start = self.rows.state()
        self.window, self.window_places = [], []
        while len(self.window) < self.window_size and (placed := self.rows.read()) is not None:
            self.window.append(self.draw(placed.row))
            self.window_places.append(placed.place)
        self.left = list(range(len(self.window)))
        if self.has_window:
            lengths = [getattr(drawn, "length", 0) for drawn in self.window]
            self.left.sort(key=lengths.__getitem__)

    def choose_place(self) -> int:
        """Where in the window a batch begins: a random one of the batches that it still holds."""
        if not self.has_window or len(self.left) < self.batch_size:
            return 0
        random = self.consumer.random(2, drawn=self.batches)
        return int(random.random() * (len(self.left) // self.batch_size)) * self.batch_size

    def take(self, place: int) -> DrawnSample | SkippedSample | None:
        """The next sample from a place in the window on; from behind it when it is used up."""
        if self.left:
            return self.window[self.left.pop(min(place, len(self.left) - 1))]
        placed = self.rows.read()
        return None if placed is None else self.draw(placed.row)

    def draw(self, row: Row | SkippedSample) -> DrawnSample | SkippedSample:
        """The texts of a row in this pass of this epoch."""
        if isinstance(row, SkippedSample):
            return row
        epoch = self.consumer.epoch
        return self.maker.draw(row, epoch, row.passes, stable_number(row.name))
