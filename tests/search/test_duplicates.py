"""Pictures that are the same and pictures that are alike, told apart."""

import csv
import io
import json
import shutil

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.search.duplicates import find_duplicates
from modeling_clip_vit.search.index import PictureIndex
from tests.support.indexes import make_index


def draw(seed: int, side: int = 96) -> Image.Image:
    """A smooth picture of its own."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def index(tmp_path_factory, exported) -> PictureIndex:
    """Four pictures, one of them also as a copy, as other formats, and smaller."""
    folder = tmp_path_factory.mktemp("pictures")
    for seed in range(4):
        draw(seed).save(folder / f"{seed}.png")
    shutil.copy(folder / "0.png", folder / "copy of 0.png")
    draw(0).save(folder / "0.bmp")
    draw(0).resize((48, 48)).save(folder / "small 0.jpg", quality=95)
    (folder / "broken.png").write_bytes(b"no picture")
    return make_index(exported, folder, tmp_path_factory.mktemp("index") / "i")


def groups_of(index, capsys, *options: str) -> list[tuple[str, list[str]]]:
    assert main(["duplicates", index.name, "--format", "json", *options]) == 0
    content = json.loads(capsys.readouterr().out)
    return [
        (group["reason"], [picture["path"].rpartition("/")[2] for picture in group["pictures"]])
        for group in content
    ]


def test_the_same_is_found_by_bytes_by_pixels_and_by_looks(index, capsys):
    found = dict(groups_of(index, capsys, "--reasons", "bytes,pixels,perceptual"))
    assert sorted(found["bytes"]) == ["0.png", "copy of 0.png"]
    assert "0.bmp" in found["pixels"]
    assert found["perceptual"][-1] == "small 0.jpg"
    assert set(found) == {"bytes", "pixels", "perceptual"}


def test_the_largest_of_a_group_comes_first(index, capsys):
    for _, names in groups_of(index, capsys):
        assert names[0] != "small 0.jpg"


def test_a_reason_that_was_not_asked_for_is_not_looked_for(index, capsys):
    assert {reason for reason, _ in groups_of(index, capsys, "--reasons", "bytes")} == {"bytes"}


def test_the_table_and_the_csv_name_every_picture_of_a_group(index, capsys):
    assert main(["duplicates", index.name, "--reasons", "bytes"]) == 0
    shown = capsys.readouterr().out
    assert "same file (1):" in shown
    assert "1 of 7 pictures are copies of another one" in shown
    assert main(["duplicates", index.name, "--reasons", "bytes", "--format", "csv"]) == 0
    lines = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(line["group"], line["reason"]) for line in lines] == [("1", "bytes")] * 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--reasons", "looks"], "reasons='looks' is not allowed: choose from bytes, pixels"),
        (["--min_cosine", "2"], "min_cosine=2.0 is not allowed"),
    ],
)
def test_options_that_mean_nothing_are_rejected(index, options, sentence, capsys):
    assert main(["duplicates", index.name, *options]) == 1
    assert sentence in capsys.readouterr().err


def made_rows(count: int) -> pa.Table:
    """Rows without equal hashes."""
    texts, numbers = [str(n) for n in range(count)], list(range(count))
    return pa.table(
        {
            "sha256": texts,
            "pixel_hash": texts,
            "perceptual_hash": pa.array(numbers, pa.uint64()),
            "width": pa.array(numbers, pa.int32()),
            "height": pa.array(numbers, pa.int32()),
            "modified": pa.array(numbers, pa.timestamp("us", "UTC")),
        }
    )


def test_alike_pictures_are_those_of_a_comparison_of_all_pairs():
    generator = np.random.default_rng(0)
    centres = generator.standard_normal((40, 16))
    vectors = centres[generator.integers(0, 40, 5000)] + 0.1 * generator.standard_normal((5000, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    groups = find_duplicates(made_rows(5000), vectors, ["alike"], 0.97)
    used: set[int] = set()
    # One picture after the other, the largest first.
    expected = []
    for place in range(4999, -1, -1):
        if place in used:
            continue
        alike = [
            other
            for other in np.flatnonzero(vectors @ vectors[place] >= 0.97)[::-1].tolist()
            if other != place and other not in used
        ]
        if alike:
            used |= {place, *alike}
            expected.append([place, *alike])
    assert [group.places for group in groups] == expected


def test_a_group_of_alike_pictures_is_no_chain():
    angles = np.deg2rad(np.arange(0, 80, 10))
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    groups = find_duplicates(made_rows(8), vectors, ["alike"], np.cos(np.deg2rad(11)))
    assert [group.places for group in groups] == [[7, 6], [5, 4], [3, 2], [1, 0]]


def test_missing_hashes_are_not_equal():
    rows = made_rows(3)
    nothing = pa.nulls(3, pa.string())
    rows = rows.set_column(0, "sha256", nothing).set_column(1, "pixel_hash", nothing)
    assert find_duplicates(rows, np.eye(3, dtype=np.float32), ["bytes", "pixels"], 0.9) == []
