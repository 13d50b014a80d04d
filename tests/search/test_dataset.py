"""Datasets as sources of an index: Parquet, tars, tables of files."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from modeling_clip_vit.cli import main
from modeling_clip_vit.search.index import PictureIndex
from tests.support.indexes import make_index, rows_of
from tests.support.pictures import COLORS, draw_picture


def encoded(color: str, seed: int = 0) -> bytes:
    stream = io.BytesIO()
    draw_picture(color, seed).save(stream, "PNG")
    return stream.getvalue()


def write_parquet(path: Path, colors: list[str]):
    """Rows of squares with their colour in two languages, a number and some tags."""
    table = {
        "image": [{"bytes": encoded(color), "path": None} for color in colors],
        "caption": [f"a {color} square" for color in colors],
        "chinese": [COLORS[color] for color in colors],
        "stars": list(range(len(colors))),
        "tags": [[color, "square"] for color in colors],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path, row_group_size=2)


def write_tar(path: Path, colors: list[str]):
    """WebDataset samples of a picture and a caption."""
    with tarfile.open(path, "w") as tar:
        for number, color in enumerate(colors):
            for ending, content in (("png", encoded(color)), ("txt", color.encode())):
                member = tarfile.TarInfo(f"{number:04}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


@pytest.fixture
def parquet(tmp_path) -> Path:
    write_parquet(tmp_path / "data/train.parquet", ["red", "green", "blue"])
    write_parquet(tmp_path / "data/test.parquet", ["black"])
    return tmp_path / "data"


@pytest.fixture
def index(tmp_path, exported, parquet) -> PictureIndex:
    return make_index(exported, parquet, tmp_path / "i", "--columns", "chinese,stars,tags")


def test_every_row_of_every_split_is_indexed(index):
    ids = [*(f"train.parquet#{number}" for number in range(3)), "test.parquet#0"]
    assert sorted(rows_of(index)) == sorted(ids)


def test_captions_and_chosen_columns_are_kept(index):
    row = rows_of(index)["train.parquet#1"]
    assert row["caption"] == row["name"] == "a green square"
    assert (row["chinese"], row["stars"], row["tags"]) == ("绿色", 1, ["green", "square"])
    assert index.own_columns == ["chinese", "stars", "tags"]


def test_a_row_has_the_vector_of_its_picture(index):
    rows = rows_of(index)
    expected = index.image_encoder()([draw_picture("blue", 0)])[0]
    assert rows["train.parquet#2"]["vector"] == pytest.approx(expected.tolist(), abs=1e-6)


def test_a_search_shows_the_caption_of_a_row(index, capsys):
    capsys.readouterr()
    assert main(["search", index.name, "red"]) == 0
    assert "  train.parquet#1  a green square\n" in capsys.readouterr().out


def test_the_picture_of_a_row_is_read_from_its_file(index):
    rows = rows_of(index)
    assert index.picture_bytes(rows["train.parquet#2"]) == encoded("blue")
    assert index.picture_bytes(rows["test.parquet#0"]) == encoded("black")


def test_a_file_that_was_not_changed_is_not_read_again(index, exported, parquet, capsys):
    version = index.table.version
    assert main(["index", str(exported), str(parquet), index.name]) == 0
    assert "nothing new, 4 as before" in capsys.readouterr().out
    assert PictureIndex.open(index.name).table.version == version


def test_a_shorter_file_loses_rows_and_a_gone_one_all(index, exported, parquet):
    write_parquet(parquet / "train.parquet", ["red", "brown"])
    (parquet / "test.parquet").unlink()
    assert main(["index", str(exported), str(parquet), index.name]) == 0
    rows = rows_of(index)
    assert sorted(rows) == ["train.parquet#0", "train.parquet#1"]
    assert rows["train.parquet#1"]["chinese"] == "棕色"


def test_a_tar_is_indexed_and_read(tmp_path, exported):
    write_tar(tmp_path / "shard-000.tar", ["red", "blue"])
    index = make_index(exported, tmp_path / "shard-000.tar", tmp_path / "i")
    row = rows_of(index)["shard-000.tar#1"]
    assert row["caption"] == "blue"
    assert index.picture_bytes(row) == encoded("blue")


def test_pictures_that_a_table_lists_are_indexed_with_its_captions(tmp_path, exported):
    folder = tmp_path / "pictures"
    folder.mkdir()
    lines = []
    for color in ("red", "blue"):
        draw_picture(color, 0).save(folder / f"{color}.png")
        lines.append(json.dumps({"file_name": f"{color}.png", "text": f"it is {color}"}))
    lines.append(json.dumps({"file_name": "missing.png", "text": "not there"}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    rows = rows_of(index := make_index(exported, folder, tmp_path / "i"))
    row = rows["metadata.jsonl#1"]
    assert (row["path"], row["caption"]) == ("blue.png", "it is blue")
    assert index.picture_bytes(row) == (folder / "blue.png").read_bytes()
    assert "No such file" in rows["metadata.jsonl#2"]["error"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--columns", "colour"), "no column 'colour'"),
        (("--columns", "caption"), "every index has a column of that name"),
        (("--split", "validation"), "no split 'validation'"),
    ],
)
def test_what_a_dataset_does_not_have_is_refused(
    tmp_path, exported, parquet, options, message, capsys
):
    assert main(["index", str(exported), str(parquet), str(tmp_path / "i"), *options]) == 1
    assert message in capsys.readouterr().err
