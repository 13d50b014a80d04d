"""Faults of a stream's files and options: named, and never fatal to the rest."""

import pytest

from modeling_clip_vit.data.captions import CaptionOptions
from modeling_clip_vit.data.errors import DataError
from tests.support.stream_files import (
    all_workers,
    make_collator,
    make_loader,
    noisy_image,
    split_batches,
    tar_files,
    write_parquet,
    write_tar,
    write_tars,
)


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
def test_an_error_of_a_worker_stays_a_sentence(streams):
    loader = make_loader([streams["other"]], samples_per_epoch=800, num_workers=15)
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
def test_what_cannot_be_streamed_is_rejected(source, options, message, streams, tmp_path):
    (tmp_path / "notes.xyz").write_text("text")
    source = source.replace("FOLDER", str(tmp_path)).replace("PARQUET", str(streams["parquet"]))
    with pytest.raises(DataError, match=message):
        make_loader([source], **options)
