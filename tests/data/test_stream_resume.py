"""Streams that resume: at any batch, in a new process, bit for bit."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from modeling_clip_vit.data.errors import DataError
from tests.support import REPOSITORY
from tests.support.stream_files import (
    make_collator,
    make_loader,
    split_batches,
    tar_files,
    write_tar,
)


def equal_batches(ours: list[dict], theirs: list[dict]) -> bool:
    """Whether two lists of batches agree to the last bit."""
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(value, other[name]), name
            else:
                assert value == other[name]
    return True


def damage(folder: Path) -> Path:
    """A source with samples that cannot be used at many places."""
    folder.mkdir()
    files = tar_files(range(47))
    for number in (2, 3, 11, 12, 13, 25, 31, 38, 39):
        name = next(name for name in files if name.startswith(f"{number:05d}."))
        files[name] = files[name][:20]
    for name, first, last in (("a", 0, 30), ("b", 30, 47)):
        write_tar(
            folder / f"{name}.tar",
            {key: files[key] for key in files if first <= int(key[:5]) < last},
        )
    return folder


EACH_ONCE = {"stream_stopping_strategy": "all_exhausted_without_replacement"}


STREAMS = {
    "one pass": {"shuffle_buffer_size": 6, "length_window": 3},
    "endless": {"shuffle_buffer_size": 6, "samples_per_epoch": 96},
    "buffer above the data": {"shuffle_buffer_size": 500, "samples_per_epoch": 96},
    "sorted, endless": {"shuffle_buffer_size": 9, "length_window": 4, "samples_per_epoch": 96},
    "no shuffle": {"shuffle_buffer_size": 0, "length_window": 2},
}


@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("name", STREAMS)
def test_a_resume_at_any_batch_is_exact(streams, tmp_path, name, mixed):
    sources = [damage(tmp_path / "damaged")] + [
        streams["parquet"],
        streams["other"],
    ] * mixed
    collate = make_collator()

    options = {"rank": 1, "world_size": 2, "collate": collate, **STREAMS[name], **EACH_ONCE}

    def make():
        return make_loader(sources, **options)

    unbroken = list(make())
    assert len(unbroken) >= 4
    assert sum(len(batch["skipped"]) for batch in unbroken) > 0
    for stop in range(len(unbroken) + 1):
        loader = make()
        loader.set_epoch(0)
        begun = iter(loader)
        for _ in range(stop):
            next(begun)
        state = json.loads(json.dumps(loader.state_dict()))
        resumed = make()
        resumed.load_state_dict(state)
        resumed.set_epoch(0)
        assert equal_batches(list(resumed), unbroken[stop:])


def test_a_resume_in_a_large_file_is_exact(streams):
    def make():
        return make_loader([streams["large"]], shuffle_buffer_size=3, batch_size=16)

    unbroken = [split_batches([batch])[0] for batch in make()]
    for stop in (1, 5, 9):
        loader = make()
        begun = iter(loader)
        for _ in range(stop):
            next(begun)
        resumed = make()
        resumed.load_state_dict(loader.state_dict())
        assert [split_batches([batch])[0] for batch in resumed] == unbroken[stop:]


PROCESS = """
import json, sys
sys.path.insert(0, {repository!r})
from tests.support.stream_files import make_collator, make_loader
import torch
loader = make_loader({sources!r}, collate=make_collator(), num_workers={workers},
                     **{options!r})
state = json.loads({state!r})
if state:
    loader.load_state_dict(state)
batches = iter(loader)
first = [next(batches) for _ in range({count})]
for batch in first:
    batch["skipped"] = [(sample.name, sample.reason) for sample in batch["skipped"]]
torch.save((first, json.dumps(loader.state_dict())), {output!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", ["one pass", "sorted, endless"])
def test_a_new_process_goes_on_to_the_bit(streams, tmp_path, workers, name):
    sources = [str(streams["tar"]), str(streams["other"])]

    def run(count: int, state: str) -> tuple[list[dict], str]:
        code = PROCESS.format(
            repository=str(REPOSITORY),
            sources=sources,
            workers=workers,
            options={**STREAMS[name], **EACH_ONCE},
            state=state,
            count=count,
            output=str(tmp_path / "batches.pt"),
        )
        subprocess.run([sys.executable, "-c", code], check=True, timeout=300)
        return torch.load(tmp_path / "batches.pt", weights_only=True)

    unbroken, _ = run(8, "null")
    before, state = run(3, "null")
    after, _ = run(5, state)
    assert equal_batches(before + after, unbroken)


@pytest.mark.slow
def test_a_resume_counts_what_was_given_away_not_what_workers_prepared(streams):
    options = {"num_workers": 2, "samples_per_epoch": 44, "collate": make_collator()}
    unbroken = list(make_loader([streams["tar"]], **options))
    assert len(unbroken) == 11
    loader = make_loader([streams["tar"]], **options)
    for stop, _ in enumerate(loader, start=1):
        resumed = make_loader([streams["tar"]], **options)
        resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert equal_batches(list(resumed), unbroken[stop:])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("tar", {"seed": 2}, "seed was 0 and is 2"),
        ("other", {}, r"shards was \[5\] and is \[2\]"),
    ],
)
def test_a_state_of_another_stream_is_rejected(source, options, message, streams):
    state = make_loader([streams["tar"]]).state_dict()
    with pytest.raises(DataError, match=message):
        make_loader([streams[source]], **options).load_state_dict(state)


def test_processes_make_equally_many_full_batches_whatever_is_skipped(streams, tmp_path):
    sources = [damage(tmp_path / "damaged")]
    for rank in range(3):
        options = {"rank": rank, "world_size": 3, "samples_per_epoch": 125}
        loader = make_loader(sources, **options)
        batches = list(loader)
        assert len(batches) == len(loader) == 10
        assert all(len(split_batches([batch])[0]) == 4 for batch in batches)
