"""The command `clip-vit shard`: images resized once, everything else kept."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.images import to_tensor
from modeling_clip_vit.data.rows import Row
from modeling_clip_vit.data.sources import open_dataset, open_shards
from tests.support.pictures import encode
from tests.support.stream_files import write_parquet, write_tars


def soft(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth picture."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Files of several sizes and kinds, and one that is no image."""
    folder = tmp_path_factory.mktemp("pictures") / "rows"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    images = {
        "wide.jpg": encode(soft(400, 200), "JPEG", quality=95),
        "turned.jpg": encode(soft(400, 200, 1), "JPEG", quality=95, exif=exif),
        "small.png": encode(soft(60, 40, 2), "PNG"),
        "large.png": encode(soft(300, 500, 3), "PNG"),
        "broken.jpg": b"not an image",
    }
    with (folder / "metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("file_name", "caption", "number"))
        for number, (name, content) in enumerate(images.items()):
            (folder / name).write_bytes(content)
            table.writerow((name, f"caption {number}", number))
    return folder


@pytest.fixture(scope="module")
def resized(pictures, tmp_path_factory) -> Path:
    """What the command makes of them."""
    output = tmp_path_factory.mktemp("resized") / "out"
    assert main(["shard", str(pictures), str(output), "--size", "64"]) == 0
    return output


def image_of(row: dict) -> Image.Image:
    """The decoded image of a row."""
    return Image.open(io.BytesIO(row["image"]["bytes"]))


def rows_of(folder: Path) -> dict[str, dict]:
    """Caption -> row."""
    return {row["caption"]: row for row in open_dataset(str(folder))["train"].to_list()}


def test_the_shorter_side_has_the_size_and_the_picture_stands_upright(resized):
    sizes = {caption: image_of(row).size for caption, row in rows_of(resized).items()}
    assert sizes == {
        "caption 0": (128, 64),
        "caption 1": (64, 128),
        "caption 2": (60, 40),
        "caption 3": (64, 107),
    }


def test_pixels_are_close_to_those_of_the_resized_original(resized, pictures):
    new = to_tensor(image_of(rows_of(resized)["caption 3"])).float()
    original = Image.open(pictures / "large.png").resize((64, 107), Image.Resampling.BICUBIC)
    assert (new - to_tensor(original).float()).abs().mean() < 1.5


def test_a_smaller_image_keeps_its_bytes_and_its_name(resized, pictures):
    image = rows_of(resized)["caption 2"]["image"]
    assert image == {"bytes": (pictures / "small.png").read_bytes(), "path": "small.png"}


def test_other_columns_and_names_are_kept(resized):
    rows = rows_of(resized)
    assert [row["number"] for row in rows.values()] == [0, 1, 2, 3]
    assert rows["caption 3"]["image"]["path"] == "large.jpg"


def test_what_cannot_be_decoded_is_listed(resized):
    with (resized / "skipped.csv").open(newline="") as file:
        [row] = csv.DictReader(file)
    assert "UnidentifiedImageError" in row["reason"]


def test_a_lower_quality_takes_fewer_bytes(resized, pictures, tmp_path):
    command = ["shard", str(pictures), str(tmp_path / "out"), "--size", "64", "--quality", "30"]
    assert main(command) == 0
    coarse, fine = (rows_of(folder)["caption 0"] for folder in (tmp_path / "out", resized))
    assert len(coarse["image"]["bytes"]) < len(fine["image"]["bytes"]) / 2


def test_tars_keep_their_captions_and_order(tmp_path):
    tars = write_tars(tmp_path / "tars", [5, 1, 4])
    assert main(["shard", str(tars), str(tmp_path / "out"), "--size", "8"]) == 0
    shards = open_shards(str(tars), "train")
    before = [
        row.columns["caption"]
        for shard in range(len(shards))
        for _, row in shards.read(shard, 0, lambda _: True)
        if isinstance(row, Row)
    ]
    table = open_dataset(str(tmp_path / "out"))["train"]
    assert table["caption"] == before
    assert {min(image_of(row).size) for row in table.to_list()} == {8}


def test_columns_of_parquet_keep_their_types(tmp_path):
    data = write_parquet(tmp_path / "data", [7, 3])
    assert main(["shard", str(data), str(tmp_path / "out"), "--size", "8"]) == 0
    before, after = (open_dataset(str(folder))["train"] for folder in (data, tmp_path / "out"))
    assert before.features == after.features
    assert before["caption"] == after["caption"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "0"], "size=0 is not allowed: it must be at least 1"),
        (["--quality", "101"], "quality=101 is not allowed: it must be from 1 to 100"),
        (["--split", "tset"], "has no split 'tset'"),
        (["--image_column", "captoin"], "has no column 'captoin'"),
    ],
)
def test_what_cannot_be_done_is_rejected_and_nothing_is_written(
    options, message, pictures, tmp_path, capsys
):
    assert main(["shard", str(pictures), str(tmp_path / "out"), *options]) == 1
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
