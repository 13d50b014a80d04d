"""Batches of a dataset that is read as it comes: any size, several sources, no length.

rows of shards → mixed → shuffled → text drawn → sorted by length in a window → decoded → batch
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field

import fsspec
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from .captions import CaptionOptions, find_texts
from .columns import kind_of_value
from .errors import DataError
from .rows import Row, Sample, SkippedSample
from .shards import Shards, open_shards
from .shuffle import ShuffledRows
from .stream_rows import Consumer, MixedRows, StoppingStrategy
from .stream_samples import DrawnSample, MissingTextError, SampleMaker, StreamClasses

#: This many unusable samples in one batch are an error.
LONGEST_FAILURE = 10_000

Collate = Callable[[list[Sample | SkippedSample]], dict]


@dataclass
class StreamOptions:
    """What to stream, and in which order.

    Args:
        stream_sources: folders, glob patterns (`data/*.tar`) or dataset ids on the Hub that are
            read while training: Parquet, WebDataset tars and whatever else `datasets` streams.
        stream_weights: sampling weight of each source; empty weights all equally.
        stream_stopping_strategy: when a pass over several sources ends, as in
            `datasets.interleave_datasets`; ignored if samples_per_epoch is set.
        samples_per_epoch: samples per epoch over all processes; sources that end earlier start
            over. 0 makes an epoch one pass over the sources.
        shuffle_buffer_size: average number of encoded samples that each worker buffers for
            shuffling; 0 keeps the order of the shards.
        length_window: number of batches within which samples are sorted by text length, so that
            less padding is computed; 1 disables it.
    """

    stream_sources: list[str] = field(default_factory=list)
    stream_weights: list[float] = field(default_factory=list)
    stream_stopping_strategy: StoppingStrategy = "first_exhausted"
    samples_per_epoch: int = 0
    shuffle_buffer_size: int = 1000
    length_window: int = 1

    def __post_init__(self):
        weights, sources = self.stream_weights, self.stream_sources
        if weights and (len(weights) != len(sources) or min(weights) <= 0):
            raise DataError(
                f"stream_weights={weights} is not allowed: one number above 0 for each of "
                f"the {len(sources)} stream_sources"
            )
        for name, least in (
            ("samples_per_epoch", 0),
            ("shuffle_buffer_size", 0),
            ("length_window", 1),
        ):
            value = getattr(self, name)
            if value < least:
                raise DataError(f"{name}={value} is not allowed: it must be at least {least}")

    def weights(self) -> list[float]:
        """A weight for each source."""
        return self.stream_weights or [1.0] * len(self.stream_sources)


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
    ):
        state = state or {"rows": {"position": None, "left_before": -1.0}, "left": [], "batches": 0}
        self.maker, self.collate, self.consumer = maker, collate, consumer
        self.batch_size = batch_size
        self.window_size = batch_size * options.length_window
        mixed = MixedRows(
            sources,
            options.weights(),
            consumer,
            options.stream_stopping_strategy,
            is_endless=options.samples_per_epoch > 0,
            position=state["rows"]["position"],
        )
        size = options.shuffle_buffer_size
        self.rows = ShuffledRows(mixed, size, consumer, state["rows"]["left_before"])
        self.batches = state["batches"]
        #: Where the window begins, its samples, and the places in it that are still to be used.
        self.window_start = state["rows"]
        self.window: list[DrawnSample | SkippedSample] = []
        self.left: list[int] = []
        if state["left"]:
            self.fill_window()
            self.left = list(state["left"])

    def state(self) -> dict:
        """Where to go on after the last batch, as plain values."""
        start = self.window_start if self.left else self.rows.state()
        return {"rows": start, "left": list(self.left), "batches": self.batches}

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
        place = self.choose_place()
        samples: list[Sample | SkippedSample] = []
        usable = 0
        while usable < self.batch_size:
            drawn = self.take(place)
            if drawn is None:
                break
            sample = self.maker.decode(drawn) if isinstance(drawn, DrawnSample) else drawn
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
        self.window = []
        while len(self.window) < self.window_size and (row := self.rows.read()) is not None:
            self.window.append(self.draw(row))
        self.left = list(range(len(self.window)))
        if self.window_size > self.batch_size:
            lengths = [getattr(drawn, "length", 0) for drawn in self.window]
            self.left.sort(key=lengths.__getitem__)

    def choose_place(self) -> int:
        """Where in the window a batch begins: a random one of the batches that it still holds."""
        if self.window_size == self.batch_size or len(self.left) < self.batch_size:
            return 0
        random = self.consumer.random(2, drawn=self.batches)
        return int(random.random() * (len(self.left) // self.batch_size)) * self.batch_size

    def take(self, place: int) -> DrawnSample | SkippedSample | None:
        """The next sample from a place in the window on; from behind it when it is used up."""
        if self.left:
            return self.window[self.left.pop(min(place, len(self.left) - 1))]
        row = self.rows.read()
        return None if row is None else self.draw(row)

    def draw(self, row: Row | SkippedSample) -> DrawnSample | SkippedSample:
        """The texts of a row in this epoch."""
        return self.maker.draw(row, self.consumer.epoch)


@dataclass
class WorkerBatch:
    """What a worker sends: a batch and the worker's state after it, or an error for the user."""

    worker: int
    batch: dict | None = None
    state: dict | None = None
    error: str = ""


class WorkerBatches(IterableDataset):
    """The batches of each worker of one process.

    Args:
        start: worker to its batches.
        quotas: batches that each worker makes; None for as many as there are.
        first: the worker whose turn it is.
    """

    def __init__(self, start: Callable[[int], SampleBatches], quotas: list[int | None], first: int):
        self.start, self.quotas, self.first = start, quotas, first

    def __iter__(self) -> Iterator[WorkerBatch]:
        info = get_worker_info()
        worker = self.first
        if info is not None:
            worker = (info.id + self.first) % info.num_workers
            fsspec.asyn.reset_lock()  # its event loop stayed behind in the process that forked
        try:
            batches, quota = self.start(worker), self.quotas[worker]
            if quota is not None and batches.batches >= quota:
                return
            for batch in batches:
                yield WorkerBatch(worker, batch, batches.state())
                if batches.batches == quota:
                    return
        except DataError as error:
            # Raised in a worker, it would reach the user within a traceback.
            yield WorkerBatch(worker, error=str(error))


class StreamLoader:
    """Batches of an epoch of a stream, on this process; a loader and its own sampler.

    Every batch carries the state of its worker, so that `state_dict()` covers exactly the batches
    that were returned, and not those that workers have prepared ahead.

    Args:
        options: what is streamed and how.
        split: the split of each source.
        maker: makes samples of rows.
        collate: makes batches of samples.
        batch_size: samples a batch, on this process.
        seed: of the order.
        num_workers: processes that prepare batches; 0 prepares them in this one.
        rank, world_size: this process, and how many there are.

    Raises:
        DataError: a source cannot be opened.
    """

    def __init__(
        self,
        options: StreamOptions,
        split: str,
        maker: SampleMaker,
        collate: Collate,
        batch_size: int,
        seed: int = 0,
        num_workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ):
        self.options, self.maker, self.collate = options, maker, collate
        self.batch_size, self.seed = batch_size, seed
        self.num_workers, self.rank, self.world_size = num_workers, rank, world_size
        self.sources = [
            open_shards(path, split, maker.columns()) for path in options.stream_sources
        ]
        for shards in self.sources:
            if len(shards) == 0:
                raise DataError(f"split {split!r} of {shards.path!r} is empty")
        if options.samples_per_epoch and len(self) == 0:
            raise DataError(
                f"samples_per_epoch={options.samples_per_epoch} is not allowed: one batch of every "
                f"process takes {batch_size * world_size}"
            )
        self.set_epoch(0)

    @property
    def consumers(self) -> int:
        """Workers of this process, this process itself counted as one."""
        return max(1, self.num_workers)

    def __len__(self) -> int:
        """Batches of an epoch on each process.

        Raises:
            TypeError: it is unknown, because samples_per_epoch is not set.
        """
        if not self.options.samples_per_epoch:
            raise TypeError("a stream without samples_per_epoch has no length: set max_steps")
        return self.options.samples_per_epoch // (self.batch_size * self.world_size)

    def set_epoch(self, epoch: int):
        """Begin an epoch; one that a loaded state is in the middle of goes on."""
        if epoch != getattr(self, "epoch", None):
            self.begin(epoch)

    def begin(self, epoch: int):
        """Stand before the first batch of an epoch."""
        self.epoch = epoch
        self.next_worker = 0
        self.states: list[dict | None] = [None] * self.consumers

    def __iter__(self) -> Iterator[dict]:
        """The batches of this epoch that are still to come.

        Raises:
            DataError: the stream has nothing usable.
        """
        loader: DataLoader = DataLoader(
            WorkerBatches(self.start_worker, self.quotas(), self.next_worker),
            batch_size=None,
            collate_fn=leave,  # type: ignore[arg-type]  # without batch_size it takes one
            num_workers=self.num_workers,
            generator=torch.Generator().manual_seed(self.seed),
        )
        for sent in loader:
            if sent.error:
                raise DataError(sent.error)
            self.states[sent.worker] = sent.state
            self.next_worker = (sent.worker + 1) % self.consumers
            yield sent.batch
        self.begin(self.epoch)

    def quotas(self) -> list[int | None]:
        """Batches of each worker in an epoch."""
        if not self.options.samples_per_epoch:
            return [None] * self.consumers
        each, more = divmod(len(self), self.consumers)
        return [each + (worker < more) for worker in range(self.consumers)]

    def start_worker(self, worker: int) -> SampleBatches:
        """The batches of one worker, from where it stands."""
        # Consecutive consumers belong to different processes, so that shards that do not suffice
        # for all consumers are still spread over all processes.
        consumer = Consumer(
            worker * self.world_size + self.rank,
            self.consumers * self.world_size,
            self.seed,
            self.epoch,
        )
        return SampleBatches(
            self.sources,
            self.options,
            self.maker,
            self.collate,
            self.batch_size,
            consumer,
            self.states[worker],
        )

    def fingerprint(self) -> dict:
        """Everything that must match for a saved state to be valid."""
        options = self.options
        return {
            "processes": self.world_size,
            "rank": self.rank,
            "dataloader_num_workers": self.num_workers,
            "per_device_train_batch_size": self.batch_size,
            "seed": self.seed,
            "shards": [len(shards) for shards in self.sources],
            "stream_weights": options.weights(),
            "samples_per_epoch": options.samples_per_epoch,
            "shuffle_buffer_size": options.shuffle_buffer_size,
            "length_window": options.length_window,
        }

    def state_dict(self) -> dict:
        """Where to go on after the last batch given away: plain values, for this process."""
        return {
            "epoch": self.epoch,
            "next_worker": self.next_worker,
            "workers": list(self.states),
            "fingerprint": self.fingerprint(),
        }

    def load_state_dict(self, state: dict):
        """Go on from a state.

        Raises:
            DataError: it is of another stream.
        """
        for name, value in self.fingerprint().items():
            if state["fingerprint"].get(name) != value:
                raise DataError(
                    f"cannot go on with the stream: {name} was {state['fingerprint'].get(name)} "
                    f"and is {value}"
                )
        self.epoch, self.next_worker = state["epoch"], state["next_worker"]
        self.states = list(state["workers"])


def leave(sent: WorkerBatch) -> WorkerBatch:
    """Collation was done by the worker."""
    return sent


def peek_kinds(path: str, split: str, most: int = 100) -> dict[str, str]:
    """What each column of a source holds, by its first readable row; empty where there is none.

    Raises:
        DataError: it cannot be opened.
    """
    shards = open_shards(path, split)
    for shard in range(len(shards)):
        for _, row in shards.read(shard, 0, lambda number: number < most):
            if isinstance(row, Row):
                kinds = {name: kind_of_value(value) for name, value in row.columns.items()}
                return kinds | dict.fromkeys(shards.class_names, "label")
    return {}


def find_class_names(options: StreamOptions, split: str, column: str | None) -> list[str]:
    """The names of the classes of a column, by the first source that says them; else none.

    Raises:
        DataError: a source cannot be opened.
    """
    if column is None:
        return []
    sources = (open_shards(path, split) for path in options.stream_sources)
    return next((found for shards in sources if (found := shards.class_names.get(column))), [])


class StreamCaptions:
    """The first captions of a stream, for a tokenizer to learn from.

    Args:
        options: the stream.
        split: of each source.
        captions: which columns hold captions.
        count: rows to read, of all sources together.

    Raises:
        DataError: a source cannot be opened, or `label_names` has not one for each class.
    """

    def __init__(
        self, options: StreamOptions, split: str, captions: CaptionOptions, count: int = 100_000
    ):
        self.options, self.split, self.captions, self.count = options, split, captions, count
        #: Of the classes, where a source says them.
        self.class_names = find_class_names(options, split, captions.label_column)
        self.classes = StreamClasses(captions, self.class_names)

    def corpus(self) -> list[str]:
        """Every distinct caption and phrase, in order, the same on every process."""
        texts = dict.fromkeys(self.captions.words_around())
        for names in self.classes.names.values():
            texts.update(dict.fromkeys(names))
        columns = [*self.captions.caption_columns, *self.captions.tags_columns.values()]
        label = self.captions.label_column
        needed = [*columns, label] if label else columns
        sources = [open_shards(path, self.split, needed) for path in self.options.stream_sources]
        strategy: StoppingStrategy = "all_exhausted_without_replacement"
        rows = MixedRows(sources, self.options.weights(), Consumer(), strategy)
        while rows.count < self.count and (row := rows.read()) is not None:
            if isinstance(row, SkippedSample):
                continue
            for column in columns:
                texts.update(dict.fromkeys(find_texts(row.columns.get(column))))
            for source in self.captions.label_phrases if label else ():
                with suppress(MissingTextError):
                    texts[self.classes.name(row.columns, source)] = None
        return list(texts)
