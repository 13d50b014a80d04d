"""Streams: every sample once for any workers, in a random order, mixed from several sources."""

import gc
import gzip
import os
from collections import Counter
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from datasets import Dataset, DatasetDict

from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.streaming.options import StreamOptions
from tests.support.stream_files import (
    SIZES,
    all_workers,
    caption_of,
    make_loader,
    noisy_image,
    number_of,
    order_of,
    split_batches,
    tar_files,
    write_tar,
)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_sample_is_read_once_whoever_reads(streams, kind, world_size, workers):
    def make(**options):
        return make_loader([streams[kind]], shuffle_buffer_size=5, length_window=2, **options)

    numbers, skipped = split_batches(all_workers(make, world_size, workers))
    assert sorted(numbers) == list(range(sum(SIZES)))
    assert not skipped


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_worker_processes_read_every_sample_once(streams, kind, world_size, workers):
    numbers = []
    for rank in range(world_size):
        loader = make_loader([streams[kind]], rank=rank, world_size=world_size, num_workers=workers)
        numbers += split_batches(loader)[0]
    assert sorted(numbers) == list(range(sum(SIZES)))


def test_consumers_without_a_row_read_nothing(streams):
    def make(**options):
        return make_loader([streams["other"]], **options)

    numbers, _ = split_batches(all_workers(make, 5, 4))
    assert sorted(numbers) == list(range(1000, 1012))


def test_an_epoch_has_the_same_order_again(streams):
    loader = make_loader([streams["tar"]], shuffle_buffer_size=8)
    assert split_batches(loader)[0] == split_batches(loader)[0]


@pytest.mark.parametrize("changed", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_has_another_order(streams, changed):
    one = order_of(streams["tar"], shuffle_buffer_size=8)
    other = order_of(streams["tar"], shuffle_buffer_size=8, **changed)
    assert one != other
    assert sorted(one) == sorted(other)


def test_without_a_shuffle_buffer_the_rows_of_a_shard_keep_their_order(streams):
    steps = np.diff(order_of(streams["tar"], shuffle_buffer_size=0))
    assert (steps != 1).sum() <= len(SIZES) - 1


def test_shards_change_places_in_each_epoch(streams):
    orders = (order_of(streams["tar"], epoch, shuffle_buffer_size=0) for epoch in range(4))
    assert len({tuple(numbers) for numbers in orders}) == 4


def test_the_shuffle_moves_samples_as_far_as_its_buffer(streams):
    order = split_batches(make_loader([streams["large"]], shuffle_buffer_size=0))[0]
    numbers = split_batches(make_loader([streams["large"]], shuffle_buffer_size=20))[0]
    moved = [place - order.index(number) for place, number in enumerate(numbers)]
    assert max(np.abs(moved)) <= 40
    assert np.mean(np.abs(moved)) > 8


@pytest.fixture(scope="module")
def two_passes(streams) -> tuple[list[int], list[int]]:
    """The numbers of the first two passes of an epoch that is longer than the data."""
    loader = make_loader([streams["tar"]], samples_per_epoch=120, shuffle_buffer_size=500)
    numbers, _ = split_batches(loader)
    count = sum(SIZES)
    return numbers[:count], numbers[count : 2 * count]


def test_an_epoch_longer_than_the_data_starts_over(two_passes):
    for numbers in two_passes:
        assert sorted(numbers) == list(range(sum(SIZES)))


def test_each_pass_of_an_epoch_has_an_order_of_its_own(two_passes):
    assert two_passes[0] != two_passes[1]


def noise_of(loader) -> list[torch.Tensor]:
    """The random numbers of sample 3, each time that it comes."""
    caption = caption_of(3)
    return [sample.noise for batch in loader for sample in batch if sample.texts[0] == caption]


def test_a_sample_varies_from_pass_to_pass(streams):
    first, second = noise_of(make_loader([streams["tar"]], samples_per_epoch=80))[:2]
    assert not torch.equal(first, second)


def test_a_sample_does_not_vary_with_who_reads_it(streams):
    [alone] = noise_of(make_loader([streams["tar"]]))
    [shared] = [
        noise
        for rank in (0, 1)
        for noise in noise_of(make_loader([streams["tar"]], rank=rank, world_size=2))
    ]
    assert torch.equal(shared, alone)


def test_sources_mix_by_their_weights(streams):
    loader = make_loader(
        [streams["tar"], streams["other"]],
        stream_weights=[1, 3],
        samples_per_epoch=2000,
        shuffle_buffer_size=10,
    )
    numbers, _ = split_batches(loader)
    assert len(numbers) == 2000
    assert 0.7 < np.mean(np.array(numbers) >= 1000) < 0.8


@pytest.mark.parametrize(
    ("strategy", "once", "all_seen"),
    [
        ("first_exhausted", True, False),
        ("all_exhausted", False, True),
        ("all_exhausted_without_replacement", True, True),
    ],
)
def test_stopping_strategies_are_those_of_datasets(streams, strategy, once, all_seen):
    loader = make_loader([streams["tar"], streams["other"]], stream_stopping_strategy=strategy)
    counts = Counter(split_batches(loader)[0])
    expected = {*range(sum(SIZES)), *range(1000, 1012)}
    assert (set(counts) == expected) == all_seen
    assert (max(counts.values()) == 1) == once


def lengths_of_batches(folder: Path, length_window: int) -> list[list[int]]:
    """The length of each text of each batch."""
    options = {"samples_per_epoch": 144, "shuffle_buffer_size": 30, "batch_size": 8}
    loader = make_loader([folder], length_window=length_window, **options)
    return [[len(sample.texts[0]) for sample in batch] for batch in loader]


def test_batches_of_a_window_hold_texts_of_like_length(streams):
    def spread(length_window: int) -> float:
        batches = lengths_of_batches(streams["large"], length_window)
        return np.mean([max(lengths) - min(lengths) for lengths in batches])

    assert spread(6) < 0.5 * spread(1)


def test_batches_of_a_window_come_in_a_random_order(streams):
    longest = list(map(max, lengths_of_batches(streams["large"], 6)[:6]))
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


def test_an_epoch_of_one_pass_has_no_length(streams):
    with pytest.raises(TypeError, match="has no length"):
        len(make_loader([streams["tar"]]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stream_weights": [1.0, 2.0]}, "one number above 0 for each of the 1 stream_sources"),
        ({"stream_weights": [0.0]}, "one number above 0 for each of the 1 stream_sources"),
        ({"samples_per_epoch": -1}, "samples_per_epoch=-1 is not allowed: .* at least 0"),
        ({"shuffle_buffer_size": -1}, "shuffle_buffer_size=-1 is not allowed: .* at least 0"),
        ({"length_window": 0}, "length_window=0 is not allowed: .* at least 1"),
    ],
)
def test_stream_options_that_mean_nothing_are_rejected(options, message):
    with pytest.raises(DataError, match=message):
        StreamOptions(["a"], **options)


def test_a_compressed_tar_is_read_too(tmp_path):
    write_tar(tmp_path / "a.tar", tar_files(range(7)))
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress((tmp_path / "a.tar").read_bytes()))
    numbers, skipped = split_batches(make_loader([tmp_path / "*.tar.gz"]))
    assert sorted(numbers) == list(range(7))
    assert not skipped


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_pattern_of_files_is_streamed(kind, streams):
    loader = make_loader([streams[kind] / f"*0000[01]*.{kind}"])
    assert sorted(split_batches(loader)[0]) == list(range(SIZES[0] + SIZES[1]))


@pytest.mark.parametrize("in_splits", [False, True])
def test_a_saved_dataset_is_streamed(in_splits, tmp_path):
    images = [{"bytes": noisy_image(row), "path": None} for row in range(9)]
    rows = Dataset.from_dict({"image": images, "caption": [caption_of(n) for n in range(9)]})
    (DatasetDict(train=rows) if in_splits else rows).save_to_disk(tmp_path / "saved")
    numbers, _ = split_batches(make_loader([tmp_path / "saved"]))
    assert sorted(numbers) == list(range(9))


class Readers:
    """Batches of the numbers of samples, with the process that made each."""

    def __call__(self, samples):
        return {
            "numbers": [number_of(sample.texts[0]) for sample in samples],
            "reader": os.getpid(),
        }


@pytest.mark.slow
@pytest.mark.parametrize("samples_per_epoch", [0, 24])
def test_workers_stay_from_epoch_to_epoch_and_read_what_new_ones_would(streams, samples_per_epoch):
    def build():
        return make_loader(
            [streams["tar"]],
            collate=Readers(),
            num_workers=2,
            samples_per_epoch=samples_per_epoch,
        )

    staying, readers, epochs = build(), set(), []
    for epoch in range(3):
        staying.set_epoch(epoch)
        batches = list(staying)
        readers |= {batch["reader"] for batch in batches}
        epochs.append([batch["numbers"] for batch in batches])
        new = build()
        new.set_epoch(epoch)
        assert [batch["numbers"] for batch in new] == epochs[-1]
    assert len(readers) == 2
    assert epochs[0] != epochs[1]


@pytest.mark.slow
def test_an_epoch_that_was_left_in_the_middle_does_not_show_in_the_next(streams):
    def build():
        return make_loader([streams["tar"]], collate=Readers(), num_workers=2)

    left, new = build(), build()
    next(iter(left))
    left.set_epoch(1)
    new.set_epoch(1)
    assert [batch["numbers"] for batch in left] == [batch["numbers"] for batch in new]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_that_is_read_again_is_the_same(streams, workers):
    loader = make_loader([streams["tar"]], collate=Readers(), num_workers=workers)
    first, again = ([batch["numbers"] for batch in loader] for _ in range(2))
    assert len(first) > 2
    assert first == again


def test_workers_end_with_their_loader(streams):
    loader = make_loader([streams["tar"]], collate=Readers(), num_workers=1)
    [reader] = {batch["reader"] for batch in loader}
    assert psutil.pid_exists(reader)
    gc.disable()
    try:
        del loader
        assert not psutil.pid_exists(reader)
    finally:
        gc.enable()
