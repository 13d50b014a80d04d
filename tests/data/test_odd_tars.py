"""Tars as other tools and hands make them: the same rule with random access and in a stream."""

import io
import json
import logging
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.rows import Sample, SkippedSample
from modeling_clip_vit.data.sources import get_problems, open_dataset, row_files
from tests.support.stream_files import make_loader, noisy_image, write_tar


def read_table(folder: Path) -> tuple[list, list[str]]:
    """The captions of a folder of tars with random access, and why others were left out."""
    splits = open_dataset(str(folder))
    problems = [problem.reason for problem in get_problems(splits, "train")]
    return list(splits["train"]["caption"]), problems


def read_stream(folder: Path) -> tuple[list, list[str]]:
    """The texts of a folder as a stream, and why others were skipped."""
    options = {"shuffle_buffer_size": 0, "batch_size": 2}
    samples = [sample for batch in make_loader([folder], **options) for sample in batch]
    texts = [sample.texts[0] for sample in samples if isinstance(sample, Sample)]
    return texts, [sample.reason for sample in samples if isinstance(sample, SkippedSample)]


@pytest.fixture(params=[read_table, read_stream], ids=["table", "stream"])
def read(request):
    """Reads a folder of tars, with random access or as a stream."""
    return request.param


def pairs(*names: str) -> dict[str, bytes]:
    """A picture and a text of each name."""
    files = {}
    for number, name in enumerate(names):
        files |= {f"{name}.png": noisy_image(number), f"{name}.txt": name.encode()}
    return files


def test_names_with_dots_end_at_the_last_one_where_all_have_some(read, tmp_path):
    write_tar(tmp_path / "a.tar", pairs("a.b.c", "a.b.d", "2.0"))
    assert read(tmp_path) == (["a.b.c", "a.b.d", "2.0"], [])


def test_a_name_with_dots_among_others_is_named_and_not_lost_in_silence(read, tmp_path):
    write_tar(tmp_path / "a.tar", pairs("one", "two.b", "three"))
    texts, [reason] = read(tmp_path)
    assert texts == ["one", "three"]
    assert "a name ends at its first dot, so that 'two' has a file 'b.png'" in reason


def test_a_second_picture_of_a_sample_is_no_sample(read, tmp_path):
    files = pairs("one", "two")
    write_tar(tmp_path / "a.tar", dict(sorted({**files, "one.seg.png": noisy_image(9)}.items())))
    assert read(tmp_path) == (["one", "two"], [])


def write_members(path: Path, members: list[tuple[str, bytes]]):
    """A tar in which a name may come twice."""
    with tarfile.open(path, "w") as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_a_name_that_comes_again_is_another_sample(read, tmp_path):
    again = [("1.png", noisy_image(0)), ("1.txt", b"one")]
    write_members(tmp_path / "a.tar", [*again, ("1.png", noisy_image(1)), ("1.txt", b"two")])
    assert read(tmp_path) == (["one", "two"], [])


def test_a_caption_that_is_null_hides_no_text(read, tmp_path):
    files = {**pairs("one"), "one.json": b'{"caption": null, "hash": %d}' % 2**70}
    write_tar(tmp_path / "a.tar", files)
    assert read(tmp_path) == (["one"], [])


@pytest.fixture
def listed_captions(tmp_path) -> Path:
    """A tar of a sample with two captions, and one with a caption."""
    files = {"1.png": noisy_image(0), "1.json": json.dumps({"caption": ["a", "b"]}).encode()}
    write_tar(tmp_path / "a.tar", {**files, **pairs("2")})
    return tmp_path


def test_captions_of_a_table_are_lists_if_one_of_them_is(listed_captions):
    assert read_table(listed_captions)[0] == [["a", "b"], ["2"]]


def test_a_stream_draws_one_of_a_list_of_captions(listed_captions):
    assert read_stream(listed_captions)[0][0] in ("a", "b")


def test_a_byte_order_mark_is_cut(read, tmp_path):
    files = {"1.png": noisy_image(0), "1.txt": "\ufeffone".encode()}
    write_tar(tmp_path / "a.tar", files)
    assert read(tmp_path) == (["one"], [])


def test_a_lone_surrogate_spoils_its_row_alone(read, tmp_path):
    files = {**pairs("one", "two"), "two.json": b'{"note": "\\ud800"}'}
    write_tar(tmp_path / "a.tar", files)
    assert read(tmp_path) == (["one"], ["its 'note' has bytes that are no characters"])


def test_members_out_of_order_say_so(tmp_path):
    files = pairs("one", "two")
    write_tar(tmp_path / "a.tar", dict(sorted(files.items(), key=lambda item: item[0][-3:])))
    _, reasons = read_stream(tmp_path)
    assert "stand together" in reasons[0]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_an_empty_caption_skips_its_row_and_not_the_rest_of_a_table(kind, tmp_path, caplog):
    lines = [(f"{n}.png", "" if n == 5 else f"text {n}") for n in range(9)]
    for name, _ in lines:
        (tmp_path / name).write_bytes(noisy_image(int(name[0])))
    if kind == "csv":
        content = "file_name,caption\n" + "".join(f"{a},{b}\n" for a, b in lines)
    else:
        rows = ({"file_name": a, "caption": b or None} for a, b in lines)
        content = "".join(json.dumps(row) + "\n" for row in rows)
    path = tmp_path / f"pairs.{kind}"
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        loader = make_loader([path], shuffle_buffer_size=0, batch_size=2, image="file_name")
        samples = [sample for batch in loader for sample in batch]
    texts = [sample.texts[0] for sample in samples if isinstance(sample, Sample)]
    assert texts == [f"text {n}" for n in range(9) if n != 5]
    [skipped] = [sample for sample in samples if isinstance(sample, SkippedSample)]
    assert "'caption' is empty" in skipped.reason


@pytest.fixture
def read_once(tmp_path, monkeypatch) -> tuple[Path, tuple]:
    """A tar that was read, and what was read of it; reading it again is an error."""
    write_tar(tmp_path / "a.tar", {**pairs("one", "two"), "three.png": b"", "three.json": b"{"})
    first = read_table(tmp_path)

    def fail(*args):
        raise AssertionError("read again")

    monkeypatch.setattr(row_files, "read_tar", fail)
    return tmp_path, first


def test_a_tar_that_has_not_changed_is_not_read_again(read_once):
    folder, (captions, problems) = read_once
    assert captions == ["one", "two"]
    assert len(problems) == 1
    assert read_table(folder) == (captions, problems)


def test_a_tar_that_has_changed_is_read_again(read_once):
    folder, _ = read_once
    write_tar(folder / "a.tar", pairs("one", "two", "three"))
    with pytest.raises(DataError, match="read again"):
        open_dataset(str(folder))


def test_a_picture_of_any_kind_that_a_folder_may_hold_is_one_in_a_tar(read, tmp_path):
    picture = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(picture, "PPM")
    write_tar(tmp_path / "a.tar", {"one.ppm": picture.getvalue(), "one.txt": b"red"})
    assert read(tmp_path) == (["red"], [])
