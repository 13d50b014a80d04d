"""Batches that are copied one ahead on a stream of their own, and where reading then stands."""

from contextlib import contextmanager

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from modeling_clip_vit.data.batches import ConceptBatchSampler
from modeling_clip_vit.data.rows import BadSamples
from modeling_clip_vit.training.datasets import TrainingData
from modeling_clip_vit.training.options import DataOptions
from modeling_clip_vit.training.prefetch import SideStreamCopier, copy_ahead
from modeling_clip_vit.training.resumable_batches import ResumableBatches, ResumableStream
from tests.support.stream_files import make_collator, make_loader, write_tars

from .test_resumable_batches import Numbers, Rows

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


class RecordedStream:
    """Stands for a stream of an accelerator: notes what is asked of it."""

    def __init__(self, name: str, log: list):
        self.name, self.log = name, log

    def record_event(self) -> str:
        self.log.append((self.name, "records"))
        return f"event {sum(entry[1] == 'records' for entry in self.log)}"

    def wait_event(self, event: str):
        self.log.append((self.name, "waits for", event))


class RecordedBackend:
    """Stands for `torch.cuda` on a machine without a GPU."""

    def __init__(self):
        self.log: list = []
        self.computing = RecordedStream("computing", self.log)

    def Stream(self, device):  # noqa: N802
        return RecordedStream("copying", self.log)

    def current_stream(self, device):
        return self.computing

    @contextmanager
    def stream(self, stream):
        self.log.append((stream.name, "begins"))
        yield
        self.log.append((stream.name, "ends"))


class Numbered(torch.Tensor):
    """A tensor that notes for which stream its memory is kept."""

    streams: list

    def record_stream(self, stream):
        self.streams.append(stream.name)


class StandingReader:
    """Notes where it is put; a batch of number `last` ends the pass."""

    def __init__(self, batches: list[dict], last: int | None = None):
        self.batches, self.last = batches, last
        self.read, self.stands, self.ended = 0, [], False

    def __iter__(self):
        for batch in self.batches:
            self.read += 1
            yield batch
        self.ended = True

    def place(self):
        return self.read

    def is_last(self, place):
        return place == self.last

    def stand_at(self, place):
        self.stands.append(place)


class HostCopier:
    """Notes the order of copies."""

    def __init__(self):
        self.log: list = []

    def start(self, batch):
        self.log.append(f"start {batch['number']}")
        return batch

    def finish(self, started):
        self.log.append(f"finish {started['number']}")
        return started


def test_the_next_batch_is_copied_before_a_batch_is_given_away():
    copier = HostCopier()
    reader = StandingReader([{"number": number} for number in range(3)])
    for batch in copy_ahead(iter(reader), copier, reader):
        copier.log.append(f"step {batch['number']}")
    assert copier.log == [
        *("start 0", "start 1", "finish 0", "step 0"),
        *("start 2", "finish 1", "step 1", "finish 2", "step 2"),
    ]
    assert reader.stands == [1, 2, 3]


def test_a_pass_is_not_read_to_its_end_before_its_last_batch_is_given_away():
    reader = StandingReader([{"number": number} for number in range(3)], last=3)
    ended = [reader.ended for _ in copy_ahead(iter(reader), HostCopier(), reader)]
    assert ended == [False, False, False]
    assert reader.ended


def test_what_computes_waits_for_the_copy_of_its_batch_alone():
    backend = RecordedBackend()
    copier = SideStreamCopier(torch.device("cpu"), backend)
    first, second = copier.start({"mix_seed": 1}), copier.start({"mix_seed": 2})
    assert copier.finish(first) == {"mix_seed": 1}
    assert copier.finish(second) == {"mix_seed": 2}
    assert backend.log == [
        *(("copying", "begins"), ("copying", "records"), ("copying", "ends")),
        *(("copying", "begins"), ("copying", "records"), ("copying", "ends")),
        ("computing", "waits for", "event 1"),
        ("computing", "waits for", "event 2"),
    ]


def test_the_memory_of_a_batch_is_kept_for_what_computes():
    backend = RecordedBackend()
    values = torch.arange(3).as_subclass(Numbered)
    values.streams = []
    SideStreamCopier(torch.device("cpu"), backend).finish(({"ids": values, "seed": 1}, "event"))
    assert values.streams == ["computing"]


def build_table(is_ahead: bool, steps: int = 2) -> tuple[ResumableBatches, Accelerator]:
    """Four batches of a table."""
    sampler = ConceptBatchSampler({row: row for row in range(12)}, 3, 1, seed=0)
    loader = DataLoader(Rows(), batch_sampler=sampler, collate_fn=Numbers())
    data = TrainingData(loader, sampler, BadSamples(0.0, seen=0), 12, 12)
    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=steps)
    batches = ResumableBatches(accelerator, data, DataOptions())
    if is_ahead:
        batches.copier = HostlessCopier()
    return batches, accelerator


class HostlessCopier:
    """Copies nothing."""

    def start(self, batch):
        return batch

    def finish(self, started):
        return started


@pytest.mark.parametrize("done", [0, 1])
def test_accelerate_ends_a_pass_with_an_update_as_without_reading_ahead(done):
    def updates(is_ahead: bool) -> list[tuple[list[int], bool]]:
        batches, accelerator = build_table(is_ahead, steps=3)
        model = torch.nn.Linear(1, 1)
        found = []
        for epoch in range(2):
            for batch in batches.read(epoch, done):
                with accelerator.accumulate(model):
                    found.append((batch["image_ids"].tolist(), accelerator.sync_gradients))
        return found

    assert updates(True) == updates(False)


def test_a_stream_that_is_read_ahead_resumes_behind_the_batch_that_was_given_away(tmp_path):
    tars = write_tars(tmp_path / "tars", [12, 12])

    def build() -> ResumableStream:
        loader = make_loader([tars], collate=make_collator(), samples_per_epoch=24)
        data = TrainingData(loader, loader, BadSamples(0.0, seen=0), 24, 24)
        stream = ResumableStream(Accelerator(cpu=True), data, DataOptions())
        stream.copier = HostlessCopier()
        return stream

    batches, states = [], []
    stream = build()
    for batch in stream.read(0, 0):
        batches.append(batch["image_ids"].tolist())
        states.append(stream.state_dict())
    assert len(batches) > 2
    for done, state in enumerate(states, 1):
        resumed = build()
        resumed.loader.load_state_dict(state)
        assert [batch["image_ids"].tolist() for batch in resumed.read(0, 0)] == batches[done:]
