"""Streams: every sample once for any workers; exact resumes; faults named, never fatal."""

import gzip
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict

from modeling_clip_vit.data.batches import Collator
from modeling_clip_vit.data.captions import CaptionOptions, stable_number
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.rows import Sample, SkippedSample
from modeling_clip_vit.data.streaming.captions import StreamCaptions
from modeling_clip_vit.data.streaming.options import StreamOptions
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.data.transforms import AugmentOptions
from tests.support import REPOSITORY
from tests.support.stream_files import (
    caption_of,
    make_loader,
    noisy_image,
    number_of,
    tar_files,
    write_parquet,
    write_tar,
    write_tars,
)

#: Shards of unequal sizes, one of them with a single sample.
SIZES = [11, 1, 7, 13, 9]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same 41 samples as tars and as parquet, and 12 others."""
    root = tmp_path_factory.mktemp("streams")
    return {
        "tar": write_tars(root / "tar", SIZES),
        "parquet": write_parquet(root / "parquet", SIZES),
        "other": write_tars(root / "other", [5, 7], first=1000),
        "large": write_parquet(root / "large", [150, 3]),
    }


def split_batches(batches) -> tuple[list[int], list[SkippedSample]]:
    """The numbers of the samples of batches, and what was skipped."""
    samples = [sample for batch in batches for sample in batch]
    numbers = [number_of(sample.texts[0]) for sample in samples if isinstance(sample, Sample)]
    return numbers, [sample for sample in samples if isinstance(sample, SkippedSample)]


def all_workers(make, world_size: int, workers: int):
    """Batches of every worker of every process, made in this one."""
    for rank in range(world_size):
        loader = make(rank=rank, world_size=world_size, num_workers=workers)
        for worker in range(loader.consumers):
            yield from loader.start_worker(worker)


@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_sample_is_read_once_whoever_reads(folders, kind, world_size, workers):
    def make(**options):
        return make_loader([folders[kind]], shuffle_buffer_size=5, length_window=2, **options)

    numbers, skipped = split_batches(all_workers(make, world_size, workers))
    assert sorted(numbers) == list(range(sum(SIZES)))
    assert not skipped


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tar", "parquet"])
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_worker_processes_read_every_sample_once(folders, kind, world_size, workers):
    numbers = []
    for rank in range(world_size):
        loader = make_loader([folders[kind]], rank=rank, world_size=world_size, num_workers=workers)
        numbers += split_batches(loader)[0]
    assert sorted(numbers) == list(range(sum(SIZES)))


def test_consumers_without_a_row_read_nothing(folders):
    def make(**options):
        return make_loader([folders["other"]], **options)

    numbers, _ = split_batches(all_workers(make, 5, 4))
    assert sorted(numbers) == list(range(1000, 1012))


def order_of(folder: Path, epoch: int = 0, **options) -> list[int]:
    """The numbers of the samples of an epoch in order."""
    loader = make_loader([folder], **options)
    loader.set_epoch(epoch)
    return split_batches(loader)[0]


def test_an_epoch_has_the_same_order_again(folders):
    loader = make_loader([folders["tar"]], shuffle_buffer_size=8)
    assert split_batches(loader)[0] == split_batches(loader)[0]


@pytest.mark.parametrize("changed", [{"epoch": 1}, {"seed": 1}])
def test_another_epoch_or_seed_has_another_order(folders, changed):
    one = order_of(folders["tar"], shuffle_buffer_size=8)
    other = order_of(folders["tar"], shuffle_buffer_size=8, **changed)
    assert one != other
    assert sorted(one) == sorted(other)


def test_without_a_shuffle_buffer_the_rows_of_a_shard_keep_their_order(folders):
    steps = np.diff(order_of(folders["tar"], shuffle_buffer_size=0))
    assert (steps != 1).sum() <= len(SIZES) - 1


def test_shards_change_places_in_each_epoch(folders):
    orders = (order_of(folders["tar"], epoch, shuffle_buffer_size=0) for epoch in range(4))
    assert len({tuple(numbers) for numbers in orders}) == 4


def test_the_shuffle_moves_samples_as_far_as_its_buffer(folders):
    order = split_batches(make_loader([folders["large"]], shuffle_buffer_size=0))[0]
    numbers = split_batches(make_loader([folders["large"]], shuffle_buffer_size=20))[0]
    moved = [place - order.index(number) for place, number in enumerate(numbers)]
    assert max(np.abs(moved)) <= 40
    assert np.mean(np.abs(moved)) > 8


def make_collator() -> Collator:
    options = AugmentOptions(rotation=20, zoom=0.2, hue=20, erase_probability=0.3)
    texts = [caption_of(number) for number in range(60)]
    return Collator(train_tokenizer(texts, 300, 32), options, [0.5] * 3, [0.5] * 3)


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
def test_a_resume_at_any_batch_is_exact(folders, tmp_path, name, mixed):
    sources = [damage(tmp_path / "damaged")] + [folders["parquet"], folders["other"]] * mixed
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


def test_a_resume_in_a_large_file_is_exact(folders):
    def make():
        return make_loader([folders["large"]], shuffle_buffer_size=3, batch_size=16)

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
from tests.data.test_streams import make_collator, make_loader
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
def test_a_new_process_goes_on_to_the_bit(folders, tmp_path, workers, name):
    sources = [str(folders["tar"]), str(folders["other"])]

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
def test_a_resume_counts_what_was_given_away_not_what_workers_prepared(folders):
    options = {"num_workers": 2, "samples_per_epoch": 44, "collate": make_collator()}
    unbroken = list(make_loader([folders["tar"]], **options))
    assert len(unbroken) == 11
    loader = make_loader([folders["tar"]], **options)
    for stop, _ in enumerate(loader, start=1):
        resumed = make_loader([folders["tar"]], **options)
        resumed.load_state_dict(json.loads(json.dumps(loader.state_dict())))
        assert equal_batches(list(resumed), unbroken[stop:])


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("tar", {"num_workers": 2}, "dataloader_num_workers was 0 and is 2"),
        ("other", {}, r"shards was \[5\] and is \[2\]"),
    ],
)
def test_a_state_of_another_stream_is_rejected(source, options, message, folders):
    state = make_loader([folders["tar"]]).state_dict()
    with pytest.raises(DataError, match=message):
        make_loader([folders[source]], **options).load_state_dict(state)


def test_processes_make_equally_many_full_batches_whatever_is_skipped(folders, tmp_path):
    sources = [damage(tmp_path / "damaged")]
    for rank in range(3):
        options = {"rank": rank, "world_size": 3, "samples_per_epoch": 125}
        loader = make_loader(sources, **options)
        batches = list(loader)
        assert len(batches) == len(loader) == 10
        assert all(len(split_batches([batch])[0]) == 4 for batch in batches)


@pytest.fixture(scope="module")
def two_passes(folders) -> tuple[list[int], list[int]]:
    """The numbers of the first two passes of an epoch that is longer than the data."""
    loader = make_loader([folders["tar"]], samples_per_epoch=120, shuffle_buffer_size=500)
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


def test_a_sample_varies_from_pass_to_pass(folders):
    first, second = noise_of(make_loader([folders["tar"]], samples_per_epoch=80))[:2]
    assert not torch.equal(first, second)


def test_a_sample_does_not_vary_with_who_reads_it(folders):
    [alone] = noise_of(make_loader([folders["tar"]]))
    [shared] = [
        noise
        for rank in (0, 1)
        for noise in noise_of(make_loader([folders["tar"]], rank=rank, world_size=2))
    ]
    assert torch.equal(shared, alone)


def test_sources_mix_by_their_weights(folders):
    loader = make_loader(
        [folders["tar"], folders["other"]],
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
def test_stopping_strategies_are_those_of_datasets(folders, strategy, once, all_seen):
    loader = make_loader([folders["tar"], folders["other"]], stream_stopping_strategy=strategy)
    counts = Counter(split_batches(loader)[0])
    expected = {*range(sum(SIZES)), *range(1000, 1012)}
    assert (set(counts) == expected) == all_seen
    assert (max(counts.values()) == 1) == once


def lengths_of_batches(folder: Path, length_window: int) -> list[list[int]]:
    """The length of each text of each batch."""
    options = {"samples_per_epoch": 144, "shuffle_buffer_size": 30, "batch_size": 8}
    loader = make_loader([folder], length_window=length_window, **options)
    return [[len(sample.texts[0]) for sample in batch] for batch in loader]


def test_batches_of_a_window_hold_texts_of_like_length(folders):
    def spread(length_window: int) -> float:
        batches = lengths_of_batches(folders["large"], length_window)
        return np.mean([max(lengths) - min(lengths) for lengths in batches])

    assert spread(6) < 0.5 * spread(1)


def test_batches_of_a_window_come_in_a_random_order(folders):
    longest = list(map(max, lengths_of_batches(folders["large"], 6)[:6]))
    assert longest not in (sorted(longest), sorted(longest, reverse=True))


@pytest.fixture
def animals(tmp_path):
    """Makes the batch of a cat without a kind, a dog and a cat."""
    files = {}
    for number, caption in enumerate(["a cat", "a dog", "a cat"]):
        files[f"{number}.png"] = noisy_image(number)
        files[f"{number}.txt"] = caption.encode()
        files[f"{number}.json"] = json.dumps({"kind": "animal" if number else None}).encode()
    write_tar(tmp_path / "a.tar", files)

    def make(concept: str | None = None) -> dict:
        options = {"collate": make_collator(), "shuffle_buffer_size": 0, "concept": concept}
        [batch] = make_loader([tmp_path], **options)
        return batch

    return make


def test_equal_captions_are_positives_of_each_other(animals):
    batch = animals()
    cat, dog = stable_number("a cat"), stable_number("a dog")
    assert batch["image_ids"].tolist() == [cat, dog, cat]
    assert batch["text_ids"].tolist() == [cat, dog]
    assert batch["is_first_view"].tolist() == [True, True, False]


def test_equal_concepts_are_positives_of_each_other(animals):
    animal = stable_number('"animal"')
    assert animals("kind")["image_ids"].tolist()[1:] == [animal, animal]


def test_a_row_without_a_concept_stands_for_itself(animals):
    missing, *others = animals("kind")["image_ids"].tolist()
    assert missing not in (*others, stable_number("a cat"))


@pytest.fixture
def captions_of_epoch(tmp_path):
    """Makes the numbers of the captions drawn in an epoch, of five of each of eight rows."""
    captions = [[caption_of(10 * row + n) for n in range(5)] for row in range(8)]
    images = [{"bytes": noisy_image(row), "path": None} for row in range(8)]
    Dataset.from_dict({"image": images, "caption": captions}).to_parquet(tmp_path / "a.parquet")
    return lambda epoch: sorted(order_of(tmp_path, epoch))


def test_one_of_several_captions_of_each_row_is_drawn(captions_of_epoch):
    assert [number // 10 for number in captions_of_epoch(0)] == list(range(8))


def test_each_epoch_draws_captions_anew(captions_of_epoch):
    assert len({tuple(captions_of_epoch(epoch)) for epoch in range(6)}) == 6


def test_an_epoch_draws_the_same_captions_again(captions_of_epoch):
    assert captions_of_epoch(3) == captions_of_epoch(3)


VARIED = CaptionOptions(
    caption_columns=["caption_en", "caption_zh"],
    caption_sampling="each",
    tags_columns={"caption_en": "tags_en"},
    tag_probability=1.0,
    templates={"caption_zh": ["看{}"]},
    template_probability=1.0,
)


@pytest.fixture(scope="module")
def varied_batch(color_dataset) -> list[Sample]:
    """Samples with a text of each of two columns, one with tags, the other in a template."""
    [batch] = make_loader([color_dataset], captions=VARIED, concept="key", batch_size=16)
    return batch


def test_a_column_with_tags_carries_them(varied_batch):
    assert all(", " in sample.texts[0] for sample in varied_batch)


def test_a_column_with_templates_is_put_into_them(varied_batch):
    assert {sample.texts[1][:1] for sample in varied_batch} == {"看"}


def test_rows_of_one_concept_are_positives_of_each_other(varied_batch):
    assert sorted(Counter(sample.concept for sample in varied_batch).values()) == [2] * 8


def test_a_tokenizer_learns_captions_tags_and_templates(color_dataset):
    stream = StreamOptions([str(color_dataset)])
    corpus = StreamCaptions(stream, "train", VARIED).corpus()
    assert {"看", "a red square", "红色方块", "square"} <= set(corpus)


def test_a_tokenizer_learns_from_the_first_rows_of_a_stream(color_dataset):
    stream = StreamOptions([str(color_dataset)])
    few = StreamCaptions(stream, "train", CaptionOptions(["caption_en"]), count=3).corpus()
    assert len(few) == 3


def faulty_files() -> dict[str, bytes]:
    """Good samples 0 to 3 among samples with a fault each, that their names tell."""
    good = noisy_image(7, "JPEG", size=64)
    files = {"README": b"no part of a sample", **tar_files([0, 1])}
    files |= {"truncated.jpg": good[: len(good) // 2], "truncated.txt": b"sample 90"}
    files |= {"zero.png": b"", "zero.txt": b"sample 91"}
    files |= {"textless.jpg": good}
    files |= {"blank.jpg": good, "blank.txt": b"  "}
    files |= {"imageless.txt": b"sample 92"}
    files |= {"html.jpg": b"<html>404</html>", "html.txt": b"sample 93"}
    files |= {"latin.jpg": good, "latin.txt": "sample 94 é".encode("latin-1")}
    files |= {"json.jpg": good, "json.json": b'{"caption": '}
    files |= {"surrogate.jpg": good, "surrogate.json": b'{"caption": "sample \\ud800"}'}
    return files | tar_files([2, 3])


REASONS = {
    "truncated": "truncated",
    "zero": "cannot identify",
    "textless": "its 'caption' is missing: it has image, jpg",
    "blank": "its 'caption' is empty",
    "imageless": "there is no 'image': it has txt, caption",
    "html": "cannot identify",
    "latin": "its txt cannot be read",
    "json": "its json cannot be read",
    "surrogate": "bytes that are no characters",
}


@pytest.fixture(scope="module")
def faulty_batch(tmp_path_factory) -> dict:
    """The batch of those files."""
    folder = tmp_path_factory.mktemp("faulty")
    write_tar(folder / "a.tar", faulty_files())
    [batch] = make_loader([folder], collate=make_collator(), batch_size=50)
    return batch


def test_no_fault_of_a_sample_stops_the_stream(faulty_batch):
    assert len(faulty_batch["image_ids"]) == 4
    assert {sample.name for sample in faulty_batch["skipped"]} == {f"a.tar, {n}" for n in REASONS}


@pytest.mark.parametrize("name", REASONS)
def test_every_fault_of_a_sample_is_named(name, faulty_batch):
    reasons = {sample.name: sample.reason for sample in faulty_batch["skipped"]}
    assert REASONS[name] in reasons[f"a.tar, {name}"]


def test_an_image_beyond_pillows_limit_is_skipped(tmp_path, monkeypatch):
    write_tar(tmp_path / "a.tar", tar_files(range(3)) | {"z.png": noisy_image(9, size=40)} | {
        "z.txt": b"sample 9"
    })  # fmt: skip
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 1000)
    numbers, [skipped] = split_batches(make_loader([tmp_path]))
    assert sorted(numbers) == [0, 1, 2]
    assert skipped.name == "a.tar, z"
    assert "DecompressionBombError" in skipped.reason


@pytest.mark.parametrize("cut", ["data", "header", "member", "empty", "garbage"])
@pytest.mark.parametrize("consumers", [1, 3])
def test_a_damaged_tar_is_named_once_and_the_others_are_read(tmp_path, cut, consumers):
    write_tars(tmp_path / "tars", [6, 6, 6])
    path = tmp_path / "tars" / "00001.tar"
    content = path.read_bytes()
    size = len(tar_files([6])["00006.png"])
    second = 512 + -(-size // 512) * 512  # where the header of the second file stands
    path.write_bytes(
        {
            "data": content[: 512 + size // 2],
            "header": content[: second + 100],
            "member": content[:second],
            "empty": b"",
            "garbage": b"\x07" * 5000,
        }[cut]
    )

    def make(**options):
        return make_loader([tmp_path / "tars"], **options)

    numbers, skipped = split_batches(all_workers(make, consumers, 0))
    assert sorted(numbers) == [*range(6), *range(12, 18)]
    assert [sample.name for sample in skipped if not sample.name.endswith("00006")] == [str(path)]


def test_what_stands_behind_a_damaged_place_of_a_tar_is_read(tmp_path):
    write_tars(tmp_path / "tars", [6])
    path = tmp_path / "tars" / "00000.tar"
    content = bytearray(path.read_bytes())
    place = content.index(b"00002.webp")
    content[place : place + 512] = b"\xff" * 512
    path.write_bytes(content)
    numbers, skipped = split_batches(make_loader([tmp_path / "tars"]))
    assert sorted(numbers) == [0, 1, 3, 4, 5]
    assert {sample.name for sample in skipped} == {str(path), "00000.tar, 00002"}
    assert f"damaged from byte {place}" in "".join(sample.reason for sample in skipped)


def test_a_damaged_parquet_file_is_named_and_the_others_are_read(tmp_path):
    folder = write_parquet(tmp_path / "parquet", [40, 40, 40])
    path = sorted(folder.iterdir())[1]
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 3000] = b"\xff" * 3000
    path.write_bytes(content)
    numbers, skipped = split_batches(make_loader([folder]))
    assert set(numbers) >= {*range(40), *range(80, 120)}
    assert str(path) in {sample.name for sample in skipped}


def test_a_stream_of_nothing_usable_ends_in_a_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("modeling_clip_vit.data.streaming.samples.LONGEST_FAILURE", 50)
    write_tar(tmp_path / "a.tar", {"1.jpg": b"no image", "1.txt": b"sample 1"})
    with pytest.raises(DataError, match=r"50 samples of one batch cannot be used; .* a.tar, 1"):
        next(iter(make_loader([tmp_path], samples_per_epoch=8)))


@pytest.mark.slow
def test_an_error_of_a_worker_stays_a_sentence(folders):
    loader = make_loader([folders["other"]], samples_per_epoch=800, num_workers=15)
    with pytest.raises(DataError, match="fewer rows than there are processes and workers") as e:
        list(loader)
    assert "\n" not in str(e.value)


@pytest.mark.parametrize(
    ("source", "options", "message"),
    [
        ("./nowhere", {}, r"no folder './nowhere'"),
        ("FOLDER/*.tar", {}, "no file fits the pattern"),
        ("FOLDER/*.xyz", {}, r"must end in one of \.parquet"),
        ("FOLDER", {}, r"no pictures, tables, tars or Parquet .* only \.xyz"),
        (
            "PARQUET",
            {"captions": CaptionOptions(caption_columns=["text"])},
            "no column 'text': it has image, caption, other",
        ),
        ("PARQUET", {"samples_per_epoch": 3}, r"samples_per_epoch=3 is not allowed: .* takes 4"),
    ],
)
def test_what_cannot_be_streamed_is_rejected(source, options, message, folders, tmp_path):
    (tmp_path / "notes.xyz").write_text("text")
    source = source.replace("FOLDER", str(tmp_path)).replace("PARQUET", str(folders["parquet"]))
    with pytest.raises(DataError, match=message):
        make_loader([source], **options)


def test_an_epoch_of_one_pass_has_no_length(folders):
    with pytest.raises(TypeError, match="has no length"):
        len(make_loader([folders["tar"]]))


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
def test_a_pattern_of_files_is_streamed(kind, folders):
    loader = make_loader([folders[kind] / f"*0000[01]*.{kind}"])
    assert sorted(split_batches(loader)[0]) == list(range(SIZES[0] + SIZES[1]))


@pytest.mark.parametrize("in_splits", [False, True])
def test_a_saved_dataset_is_streamed(in_splits, tmp_path):
    images = [{"bytes": noisy_image(row), "path": None} for row in range(9)]
    rows = Dataset.from_dict({"image": images, "caption": [caption_of(n) for n in range(9)]})
    (DatasetDict(train=rows) if in_splits else rows).save_to_disk(tmp_path / "saved")
    numbers, _ = split_batches(make_loader([tmp_path / "saved"]))
    assert sorted(numbers) == list(range(9))
