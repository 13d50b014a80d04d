"""How a run reads its batches: pass after pass, with the same workers."""

import itertools
import os

import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from modeling_clip_vit.data.batches import Collator, ConceptBatchSampler
from modeling_clip_vit.data.rows import BadSamples
from modeling_clip_vit.data.transforms import AugmentOptions
from modeling_clip_vit.training.datasets import TrainingData
from modeling_clip_vit.training.options import DataOptions
from modeling_clip_vit.training.resumable_batches import ResumableBatches

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


class Rows(Dataset):
    """Each row is its number, and the process that read it."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        row, _ = index
        return row, os.getpid()


class Numbers(Collator):
    """Batches of what `Rows` gives."""

    def __init__(self):
        super().__init__(None, AugmentOptions(), [0.5] * 3, [0.5] * 3)

    def __call__(self, samples):
        rows, readers = zip(*samples, strict=True)
        return {"image_ids": torch.tensor(rows), "readers": torch.tensor(readers), "skipped": []}


def build_batches(workers: int) -> ResumableBatches:
    sampler = ConceptBatchSampler({row: row for row in range(12)}, 3, 1, seed=0)
    loader = DataLoader(
        Rows(),
        batch_sampler=sampler,
        collate_fn=Numbers(),
        num_workers=workers,
        persistent_workers=workers > 0,
    )
    data = TrainingData(loader, sampler, BadSamples(0.0, seen=0), 12, 12)
    return ResumableBatches(Accelerator(cpu=True), data, DataOptions())


def read_rows(batches: ResumableBatches, epoch: int, done: int = 0) -> list[list[int]]:
    return [batch["image_ids"].tolist() for batch in batches.read(epoch, done)]


def test_workers_stay_from_pass_to_pass():
    batches = build_batches(workers=1)
    readers = {
        int(process)
        for epoch in range(3)
        for batch in batches.read(epoch, 0)
        for process in batch["readers"]
    }
    assert len(readers) == 1
    assert os.getpid() not in readers


def test_the_order_is_that_of_the_epoch_wherever_reading_begins():
    whole, resumed = build_batches(workers=0), build_batches(workers=0)
    passes = [read_rows(whole, epoch) for epoch in range(4)]
    assert passes[0] != passes[1]
    assert all(sorted(itertools.chain(*batches)) == list(range(12)) for batches in passes)
    assert read_rows(resumed, 2, done=3) == passes[2][3:]
    assert read_rows(resumed, 3) == passes[3]
