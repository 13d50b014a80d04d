"""Streams that other processes and workers go on with: nothing twice, nothing lost."""

import copy
import json
from collections import Counter

import pytest

from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.rows import Sample, SkippedSample
from tests.support.stream_files import (
    SIZES,
    begin,
    make_loader,
    number_of,
    read_in_turn,
    split_batches,
    write_tar,
)

EACH_ONCE = {"stream_stopping_strategy": "all_exhausted_without_replacement"}
SHUFFLED = {"shuffle_buffer_size": 5, "length_window": 2, "batch_size": 2, **EACH_ONCE}


def keys_of(batches: list[list]) -> list[tuple[int, bytes]]:
    """The number of each sample and its random numbers, which differ from pass to pass."""
    return [
        (number_of(sample.texts[0]), sample.noise.numpy().tobytes())
        for batch in batches
        for sample in batch
        if isinstance(sample, Sample)
    ]


def states_of(loaders: list) -> list[dict]:
    """What a checkpoint keeps of the loaders of all processes."""
    return json.loads(json.dumps([loader.state_dict() for loader in loaders]))


def go_on(sources, launch: tuple[int, int], states: list[dict], **options) -> list:
    """Loaders of a number of processes with a number of workers, from the states of others."""
    loaders = begin(sources, *launch, **options)
    for loader in loaders:
        loader.load_state_dict(*states)
    return loaders


@pytest.mark.parametrize("stop", [0, 1, 4, 8])
@pytest.mark.parametrize("after", [(1, 0), (3, 0), (2, 2), (1, 4), (7, 3)])
@pytest.mark.parametrize("before", [(2, 0), (1, 3)])
def test_a_pass_that_others_go_on_with_has_every_sample_once(streams, before, after, stop):
    sources = [streams["tar"], streams["other"]]
    loaders = begin(sources, *before, **SHUFFLED)
    first = read_in_turn(loaders, stop)
    others = go_on(sources, after, states_of(loaders), **SHUFFLED)
    numbers, skipped = split_batches(first + read_in_turn(others))
    assert sorted(numbers) == [*range(sum(SIZES)), *range(1000, 1012)]
    assert not skipped


def test_a_pass_may_change_hands_again_and_again(streams):
    launches = [(2, 2), (3, 0), (1, 0), (2, 1), (1, 2)]
    loaders = begin([streams["parquet"]], *launches[0], **SHUFFLED)
    batches = read_in_turn(loaders, 1)
    for launch in launches[1:]:
        loaders = go_on([streams["parquet"]], launch, states_of(loaders), **SHUFFLED)
        batches += read_in_turn(loaders, 1)
    batches += read_in_turn(loaders)
    assert sorted(split_batches(batches)[0]) == list(range(sum(SIZES)))


def test_batches_buffer_and_window_may_change_within_a_pass(streams):
    loaders = begin([streams["tar"]], 2, 0, **SHUFFLED)
    first = read_in_turn(loaders, 3)
    changed = {**SHUFFLED, "batch_size": 3, "shuffle_buffer_size": 2, "length_window": 1}
    others = go_on([streams["tar"]], (2, 0), states_of(loaders), **changed)
    numbers, _ = split_batches(first + read_in_turn(others))
    assert sorted(numbers) == list(range(sum(SIZES)))


ENDLESS = {**SHUFFLED, "samples_per_epoch": 240, "batch_size": 4}


@pytest.fixture(scope="module")
def endless(streams) -> list[tuple[int, bytes]]:
    """The samples of an epoch of several passes that 2 processes begin, and 3 go on with."""
    loaders = begin([streams["tar"]], 2, 2, **ENDLESS)
    first = read_in_turn(loaders, 16)
    others = go_on([streams["tar"]], (3, 0), states_of(loaders), **ENDLESS)
    return keys_of(first + [batch for loader in others for batch in loader])


def test_an_epoch_that_others_go_on_with_keeps_its_length(endless):
    assert len(endless) == 240 - (240 - 16 * 4) % 12


def test_no_pass_of_an_epoch_has_a_sample_twice(endless):
    assert max(Counter(endless).values()) == 1


def test_the_passes_of_an_epoch_lose_nothing(endless, streams):
    options = {"samples_per_epoch": 3 * sum(SIZES), "batch_size": 1, "shuffle_buffer_size": 0}
    first_passes = keys_of(make_loader([streams["tar"]], **options))
    assert set(first_passes) <= set(endless)


def test_a_stream_that_was_dealt_anew_resumes_to_the_bit(streams):
    loaders = begin([streams["tar"]], 2, 0, **ENDLESS)
    read_in_turn(loaders, 9)
    states = states_of(loaders)
    [loader] = go_on([streams["tar"]], (1, 0), states, **ENDLESS)
    unbroken = [keys_of([batch]) for batch in copy.copy(loader)]
    for stop in (1, 3, 8, 20):
        [begun] = go_on([streams["tar"]], (1, 0), states, **ENDLESS)
        batches = iter(begun)
        for _ in range(stop):
            next(batches)
        [resumed] = go_on([streams["tar"]], (1, 0), states_of([begun]), **ENDLESS)
        assert [keys_of([batch]) for batch in resumed] == unbroken[stop:]


def test_the_next_epoch_is_dealt_as_usual(streams):
    loaders = begin([streams["tar"]], 2, 0, **SHUFFLED)
    read_in_turn(loaders, 3)
    [resumed] = go_on([streams["tar"]], (1, 0), states_of(loaders), **SHUFFLED)
    [fresh] = begin([streams["tar"]], 1, 0, **SHUFFLED)
    resumed.set_epoch(1)
    fresh.set_epoch(1)
    assert split_batches(resumed)[0] == split_batches(fresh)[0]


def test_pending_rows_of_a_shard_that_got_shorter_are_skipped_and_named(tmp_path, streams):
    (tmp_path / "a.tar").write_bytes((streams["tar"] / "00000.tar").read_bytes())
    loaders = begin([tmp_path], 2, 0, **SHUFFLED)
    read_in_turn(loaders, 2)
    write_tar(tmp_path / "a.tar", {})
    others = go_on([tmp_path], (1, 0), states_of(loaders), **SHUFFLED)
    skipped = [s for batch in read_in_turn(others) for s in batch if isinstance(s, SkippedSample)]
    assert any("no longer there" in sample.reason for sample in skipped)


@pytest.mark.parametrize(
    ("of_older_release", "count", "message"),
    [
        (
            True,
            2,
            "an older release saved its place, for 2 processes with dataloader_num_workers=0",
        ),
        (False, 1, "2 processes .* read it, and the place of 1 is kept"),
    ],
)
def test_states_that_cannot_be_dealt_anew_are_rejected(streams, of_older_release, count, message):
    loaders = begin([streams["tar"]], 2, 0)
    read_in_turn(loaders, 2)
    states = states_of(loaders)[:count]
    if of_older_release:
        for state in states:
            del state["remainder"], state["workers"][0]["pending"], state["workers"][0]["next"]
    with pytest.raises(DataError, match=message):
        go_on([streams["tar"]], (1, 0), states)


def test_a_state_of_an_older_release_resumes_where_nothing_has_changed(streams):
    [loader] = begin([streams["tar"]], 1, 0, **SHUFFLED)
    read_in_turn([loader], 3)
    [state] = states_of([loader])
    unbroken = split_batches(loader)[0]
    del state["remainder"], state["workers"][0]["pending"], state["workers"][0]["next"]
    [resumed] = go_on([streams["tar"]], (1, 0), [state], **SHUFFLED)
    assert split_batches(resumed)[0] == unbroken
