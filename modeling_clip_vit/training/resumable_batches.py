"""The batches of a pass over the data, from any batch on, and what could not be read of it."""

import logging
import math
import time
from collections.abc import Iterator
from typing import Any

from accelerate import Accelerator
from accelerate.utils import send_to_device

from ..data.errors import DataError
from ..data.streaming.loader import StreamLoader, StreamPlace
from ..utils.devices import copies_pinned
from .datasets import TrainingData
from .options import DataOptions
from .prefetch import SideStreamCopier, copy_ahead
from .restart import ImageCounts

logger = logging.getLogger(__name__)


class ResumableBatches:
    """This process's batches of a dataset whose rows are numbered.

    Args:
        accelerator: shares the batches out over processes.
        data: loader, sampler and the bad images found so far.
        options: for the dataset's name in messages.
    """

    def __init__(self, accelerator: Accelerator, data: TrainingData, options: DataOptions):
        self.accelerator = accelerator
        self.loader = self.share(data.loader)
        self.sampler, self.bad = data.sampler, data.bad
        # On a CPU, workers do it at the same time as training goes on.
        device = accelerator.device
        data.collate.leaves_pixels = device.type != "cpu"
        self.copier = SideStreamCopier(device) if copies_pinned(device.type) else None
        self.finish = data.collate.finish
        self.path = options.dataset
        self.seconds_waited = 0.0

    def share(self, loader: Any) -> Any:
        """The loader of this process's batches, which stay on the host."""
        return self.accelerator.prepare_data_loader(loader, device_placement=False)

    def __len__(self) -> int:
        """Batches of this process in a pass."""
        return len(self.loader)

    def read(self, epoch: int, done: int) -> Iterator[dict]:
        """The batches of a pass, without those already done."""
        self.sampler.set_epoch(epoch)
        batches = self.copied(self.remaining(epoch, done))
        while True:
            started = time.perf_counter()
            batch = next(batches, None)
            self.seconds_waited += time.perf_counter() - started
            if batch is None:
                return
            self.note_skipped(batch)
            yield self.finish(batch)

    def copied(self, batches: Iterator[dict]) -> Iterator[dict]:
        """Batches on the device: copied ahead, where it copies while it computes."""
        if self.copier is not None:
            return copy_ahead(batches, self.copier, self)
        return (send_to_device(batch, self.accelerator.device) for batch in batches)

    def place(self) -> Any:
        """Whether Accelerate has come to the end of the pass: it then ends it with an update."""
        return self.accelerator.gradient_state.end_of_dataloader

    def is_last(self, place: Any) -> bool:
        """Whether the batch before a place ends the pass."""
        return place

    def stand_at(self, place: Any):
        """Let Accelerate see whether a batch ends the pass, which it has read on from."""
        loader = self.accelerator.gradient_state.active_dataloader
        if loader is not None:
            loader.end_of_dataloader = place

    def remaining(self, epoch: int, done: int) -> Iterator[dict]:
        """The batches of a pass on the host, without the first ones."""
        if done:
            return iter(self.accelerator.skip_first_batches(self.loader, done))
        # Skipping makes another loader, which would start workers of its own in every pass.
        # Accelerate's loader tells the sampler how many passes it has made, unless told an epoch.
        self.loader.set_epoch(epoch)
        return iter(self.loader)

    def end_pass(self, was_empty: bool):
        """Look back on a pass.

        Args:
            was_empty: whether it had no batch that all processes could train on.

        Raises:
            DataError: it had none, or more images are bad than are allowed.
        """
        self.bad.check(self.path)
        if was_empty:
            raise DataError(
                f"a pass over {self.path!r} gave no batch for every process: use a smaller "
                "per_device_train_batch_size or fewer processes"
            )

    def note_skipped(self, batch: dict):
        """Count and name the images of a batch that could not be decoded."""
        self.bad.seen += len(batch["skipped"]) + len(batch.get("image_ids", ()))
        for sample in batch["skipped"]:
            logger.warning("skipped %s: %s", sample.name, sample.reason)
            self.bad.add(sample.name, sample.reason)
        if self.bad.seen >= 1000:
            self.bad.check(self.path)

    def take_waiting(self) -> float:
        """Seconds that training waited for batches since this was last asked."""
        seconds, self.seconds_waited = self.seconds_waited, 0.0
        return seconds

    def state_dict(self) -> dict | None:
        """What a checkpoint must keep besides the number of batches done: nothing."""
        return None

    def resume(self, done: int, states: list[dict], before: ImageCounts, now: ImageCounts) -> int:
        """How many batches of a pass count as done, also where they had another size.

        Args:
            done: batches that each process had done.
            states: what `state_dict` gave on each process.
            before, now: processes and images of a batch, when it was saved and now.
        """
        images, share = done * before.processes * before.batch, now.processes * now.batch
        if images % share:
            logger.warning(
                "%d images of this pass were seen, which batches of %d do not divide: the last %d "
                "of them come a second time",
                images,
                share,
                images % share,
            )
        return images // share


class ResumableStream(ResumableBatches):
    """This process's batches of a stream, which knows its own place."""

    #: Where the stream stood after the last batch that was given away, if it has read on.
    standing: StreamPlace | None = None

    def share(self, loader: Any) -> Any:
        """The stream itself: it has been dealt to processes already."""
        return loader

    def place(self) -> StreamPlace:
        """Where the stream stands."""
        return self.loader.place()

    def is_last(self, place: StreamPlace) -> bool:
        """Never known: a stream may end anywhere."""
        return False

    def stand_at(self, place: StreamPlace):
        """Keep a place for the next checkpoint."""
        self.standing = place

    def remaining(self, epoch: int, done: int) -> Iterator[dict]:
        """The batches of this epoch behind those that the stream gave away, on the host."""
        return iter(self.loader)

    def state_dict(self) -> dict | None:
        """Where the stream stands on this process."""
        return self.loader.state_dict(self.standing)

    def resume(self, done: int, states: list[dict], before: ImageCounts, now: ImageCounts) -> int:
        """Go on where the stream stood, also where other processes or workers read.

        Raises:
            DataError: it was another stream.
        """
        if not states:
            logger.warning("the checkpoint is of a run without a stream: its epoch begins")
            return 0
        self.loader.load_state_dict(*states)
        self.standing = None
        images = done * before.processes * before.batch
        return math.ceil(images / (now.processes * now.batch))


def build_batches(
    accelerator: Accelerator, data: TrainingData, options: DataOptions
) -> ResumableBatches:
    """The batches of a stream or of numbered rows."""
    kind = ResumableStream if isinstance(data.loader, StreamLoader) else ResumableBatches
    return kind(accelerator, data, options)
