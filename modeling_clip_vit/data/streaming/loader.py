"""Batches of a dataset that is read as it comes: any size, several sources, no length.

rows of shards → mixed → shuffled → text drawn → sorted by length in a window → decoded → batch
"""

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass, replace
from statistics import mean

import fsspec
import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
from torch.utils.data._utils.pin_memory import pin_memory

from ...utils.devices import copies_pinned, default_device
from ..errors import DataError
from ..samples import SampleMaker
from ..sources import open_shards
from .dealing import Remainder
from .options import StreamOptions
from .redealing import consumer_of, find_remainder
from .samples import Collate, SampleBatches

#: Fields of a loader's identity that no saved state can do without.
STREAM_FIELDS = ("seed", "shards", "stream_weights", "samples_per_epoch")


@dataclass
class WorkerBatch:
    """What a worker sends: a batch and the worker's state after it, or an error for the user."""

    worker: int
    batch: dict | None = None
    state: dict | None = None
    error: str = ""

    def pin_memory(self) -> "WorkerBatch":
        """The same with the batch in pinned memory; the loader calls it."""
        return replace(self, batch=pin_memory(self.batch))


@dataclass(frozen=True)
class StreamPlace:
    """Where a stream stands on one process.

    Args:
        epoch: the pass.
        next_worker: whose turn it is.
        states: of the workers, after the last batch of each that was given away.
        remainder: what other consumers left of this epoch.
    """

    epoch: int
    next_worker: int
    states: list[dict | None]
    remainder: Remainder | None

    @property
    def is_beginning(self) -> bool:
        """Whether nothing of the epoch has been read."""
        return not any(self.states) and self.next_worker == 0 and self.remainder is None


class WorkerBatches(IterableDataset):
    """The batches of each worker of one process.

    Args:
        start: worker and epoch to its batches.
        quotas: batches that each worker makes; None for as many as there are.
        first: the worker whose turn it is.
        epoch: a number in memory that workers share, so that they can stay for another epoch.
    """

    def __init__(
        self,
        start: Callable[[int, int], SampleBatches],
        quotas: list[int | None],
        first: int,
        epoch: torch.Tensor,
    ):
        self.start, self.quotas, self.first, self.epoch = start, quotas, first, epoch

    def __iter__(self) -> Iterator[WorkerBatch]:
        info = get_worker_info()
        worker = self.first
        if info is not None:
            worker = (info.id + self.first) % info.num_workers
            fsspec.asyn.reset_lock()  # its event loop stayed behind in the process that forked
        try:
            batches, quota = self.start(worker, int(self.epoch)), self.quotas[worker]
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
        sizes: for images in their own aspect ratio, most patches of an image -> samples a batch, in
            place of `batch_size`.

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
        sizes: Mapping[int, int] | None = None,
    ):
        self.options, self.maker, self.collate = options, maker, collate
        self.seed, self.sizes = seed, sizes
        self.batch_size = round(mean(sizes.values())) if sizes else batch_size
        self.num_workers, self.rank, self.world_size = num_workers, rank, world_size
        self.sources = [
            open_shards(path, split, maker.columns(), maker.image_column)
            for path in options.stream_sources
        ]
        for shards in self.sources:
            if len(shards) == 0:
                raise DataError(f"split {split!r} of {shards.path!r} is empty")
        if options.samples_per_epoch and len(self) == 0:
            raise DataError(
                f"samples_per_epoch={options.samples_per_epoch} is not allowed: one batch of every "
                f"process takes {self.batch_size * world_size}"
            )
        #: Workers that stay, and the epoch that they read; started by the first whole epoch.
        self.workers: DataLoader | None = None
        self.worker_epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self.begin(0)

    def __getstate__(self) -> dict:
        """What a worker gets where it does not fork: not the workers."""
        return {**vars(self), "workers": None}

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

    def from_start(self) -> "StreamLoader":
        """The same stream before its first batch; reading it leaves this one where it is."""
        loader = copy(self)
        loader.workers, loader.worker_epoch = None, torch.zeros_like(self.worker_epoch)
        loader.worker_epoch.share_memory_()
        loader.begin(0)
        return loader

    def set_epoch(self, epoch: int):
        """Begin an epoch; one that a loaded state is in the middle of goes on."""
        if epoch != self.epoch:
            self.begin(epoch)

    def begin(self, epoch: int):
        """Stand before the first batch of an epoch."""
        self.epoch = epoch
        self.remainder: Remainder | None = None
        self.next_worker = 0
        self.states: list[dict | None] = [None] * self.consumers

    def __iter__(self) -> Iterator[dict]:
        """The batches of this epoch that are still to come.

        Raises:
            DataError: the stream has nothing usable.
        """
        loader = self.open_workers()
        for sent in loader:
            if sent.error:
                raise DataError(sent.error)
            self.states[sent.worker] = sent.state
            self.next_worker = (sent.worker + 1) % self.consumers
            yield sent.batch
        self.begin(self.epoch)

    def open_workers(self) -> DataLoader:
        """What prepares the rest of this epoch: the same workers for every epoch from its start."""
        if not self.place().is_beginning:
            # Workers that stay would have to be told of a place that holds thousands of rows.
            return self.build_workers(torch.tensor(self.epoch), stay=False)
        self.worker_epoch.fill_(self.epoch)
        if self.workers is None:
            self.workers = self.build_workers(self.worker_epoch, stay=self.num_workers > 0)
        return self.workers

    def build_workers(self, epoch: torch.Tensor, stay: bool) -> DataLoader:
        """Workers that read an epoch from where the stream stands."""
        # Of a copy without workers: a circle would end them only when garbage is collected.
        reader = copy(self)
        reader.workers, reader.states = None, list(self.states)
        return DataLoader(
            WorkerBatches(reader.start_worker, self.quotas(), self.next_worker, epoch),
            batch_size=None,
            collate_fn=leave,  # type: ignore[arg-type]  # without batch_size it takes one
            num_workers=self.num_workers,
            persistent_workers=stay,
            pin_memory=copies_pinned(default_device().type),
            generator=torch.Generator().manual_seed(self.seed),
        )

    def quotas(self) -> list[int | None]:
        """Batches of each worker in an epoch, or in what remains of it."""
        samples = self.options.samples_per_epoch
        if not samples:
            return [None] * self.consumers
        samples -= self.remainder.samples if self.remainder else 0
        each, rest = divmod(samples // (self.batch_size * self.world_size), self.consumers)
        return [each + (worker < rest) for worker in range(self.consumers)]

    def start_worker(self, worker: int, epoch: int | None = None) -> SampleBatches:
        """The batches of one worker, from where it stands, or of another epoch from its start."""
        epoch = self.epoch if epoch is None else epoch
        is_same = epoch == self.epoch
        consumer = consumer_of(worker, self.identity(), epoch)
        return SampleBatches(
            self.sources,
            self.options,
            self.maker,
            self.collate,
            self.batch_size,
            consumer,
            self.states[worker] if is_same else None,
            self.remainder if is_same else None,
            self.sizes,
            worker,
        )

    def identity(self) -> dict:
        """Everything that must match for a saved state to go on bit for bit."""
        options, sizes = self.options, {}
        if self.sizes is not None:  # lists, as JSON has them
            sizes["image_seq_lens"] = [list(size) for size in self.sizes.items()]
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
            **sizes,
        }

    def place(self) -> StreamPlace:
        """Where the stream stands after the last batch given away."""
        return StreamPlace(self.epoch, self.next_worker, list(self.states), self.remainder)

    def state_dict(self, place: StreamPlace | None = None) -> dict:
        """Where to go on after the last batch given away: plain values, for this process.

        Args:
            place: where the stream stood after another batch; by default where it stands.
        """
        place = place or self.place()
        return {
            "epoch": place.epoch,
            "next_worker": place.next_worker,
            "workers": [state and {**state, "pending": plain(state)} for state in place.states],
            "fingerprint": self.identity(),
            "remainder": place.remainder and place.remainder.state_dict(),
        }

    def load_state_dict(self, *states: dict):
        """Go on from a state.

        Where as many processes, workers and batches read as before, each goes on bit for bit.
        Otherwise what remains of the epoch is dealt anew: what was delivered does not come again,
        and all else comes once.

        Args:
            states: of all processes that read the stream; this process's own is enough where
                nothing has changed.

        Raises:
            DataError: they are of another stream, or not enough.
        """
        identity = self.identity()
        for name in STREAM_FIELDS:
            before = states[0]["fingerprint"].get(name)
            if before != identity[name]:
                raise DataError(
                    f"cannot go on with the stream: {name} was {before} and is {identity[name]}"
                )
        own = [state for state in states if state["fingerprint"] == identity]
        if not own:
            self.begin(states[0]["epoch"])
            self.remainder = find_remainder(self.sources, self.options, states)
            return
        [state] = own
        self.epoch, self.next_worker = state["epoch"], state["next_worker"]
        self.states = list(state["workers"])
        remainder = state.get("remainder")  # older releases have none
        self.remainder = Remainder.from_state_dict(remainder) if remainder else None


def plain(state: dict) -> list[list[int]]:
    """The pending rows of a worker's state as plain values; a loaded state has them so."""
    return np.asarray(state.get("pending", ())).tolist()


def leave(sent: WorkerBatch) -> WorkerBatch:
    """Collation was done by the worker."""
    return sent
