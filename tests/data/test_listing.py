"""Which files a path means: folders as people, archives and systems leave them."""

import json
import logging
from pathlib import Path

import pytest

from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.sources import open_dataset, open_shards, peek_kinds
from tests.support.pictures import draw_picture, encode
from tests.support.stream_files import write_tar


def put(folder: Path, *names: str):
    """Pictures of these names."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(draw_picture("red", 0)))


def sizes(folder: Path) -> dict[str, int]:
    """Rows of each split."""
    return {name: len(rows) for name, rows in open_dataset(str(folder)).items()}


def labels(folder: Path, split: str = "train") -> set[str]:
    """The classes of a split."""
    rows = open_dataset(str(folder))[split]
    return {rows.features["label"].int2str(label) for label in rows["label"]}


@pytest.mark.parametrize("path", ["", "metadata.csv"], ids=["folder", "file"])
@pytest.mark.parametrize("name", ["holiday [2019]", "a*b", "why?", "{1,2}"])
def test_a_path_that_is_there_is_no_pattern(name, path, tmp_path):
    folder = tmp_path / name
    put(folder, "1.png")
    (folder / "metadata.csv").write_text("file_name,caption\n1.png,one\n")
    assert sizes(folder / path) == {"train": 1}


def captions(path) -> list[str]:
    return open_dataset(str(path))["train"]["caption"]


@pytest.fixture
def tables(tmp_path):
    """Tables 8, 9 and 10 of one row each, whose caption is the number."""
    put(tmp_path, "1.png")
    for number in (8, 9, 10):
        (tmp_path / f"{number}.csv").write_text(f"file_name,caption\n1.png,{number}\n")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("{8..10}.csv", ["8", "9", "10"]),
        ("{10,8}.csv", ["10", "8"]),
        ("{9,1*}.csv", ["9", "10"]),
        ("{9,*}.csv", ["9", "10", "8"]),
        ("{8.csv,10.csv}", ["8", "10"]),
        ("{9..9}.csv", ["9"]),
    ],
)
def test_braces_stand_for_each_of_their_files_once_in_their_order(pattern, expected, tables):
    assert captions(tables / pattern) == expected


def test_braces_are_streamed(tables):
    shards = open_shards(str(tables / "{8..10}.csv"), "train")
    numbers = range(len(shards))
    rows = [row for shard in numbers for _, row in shards.read(shard, 0, lambda row: True)]
    assert [row.columns["caption"] for row in rows] == ["8", "9", "10"]


def test_a_missing_file_of_braces_is_named(tables):
    with pytest.raises(
        DataError, match=r"no file '.*/11.csv', one of the 4 that '.*/\{8..11\}.csv"
    ):
        open_dataset(str(tables / "{8..11}.csv"))


def test_an_open_brace_is_refused(tables):
    with pytest.raises(DataError, match="has a brace without its counterpart"):
        open_dataset(str(tables / "{8..10.csv"))


def test_braces_of_urls_stand_for_files(tables):
    shards = open_shards(f"file://{tables}/{{8..10}}.csv", "train")
    assert len(shards) == 3


def test_a_missing_url_of_braces_is_named(tables):
    with pytest.raises(DataError, match=r"file://.*/11\.csv'$"):
        open_shards(f"file://{tables}/{{8..11}}.csv", "train")


@pytest.mark.parametrize("pattern", ["*/1.png", "{cat,dog}/1.png"])
def test_a_pattern_of_pictures_may_cross_folders(pattern, tmp_path):
    put(tmp_path, "cat/1.png", "dog/1.png")
    assert sizes(tmp_path / pattern) == {"train": 2}


def test_words_of_a_split_within_a_name_are_names(tmp_path):
    put(tmp_path, "train station/1.png", "test tubes/2.png", "dev board/3.png")
    assert sizes(tmp_path) == {"train": 3}
    assert labels(tmp_path) == {"train station", "test tubes", "dev board"}


def test_a_class_of_the_name_of_a_split_is_a_class(tmp_path):
    put(tmp_path, "car/1.png", "train/2.png", "plane/3.png")
    assert labels(tmp_path) == {"car", "train", "plane"}


def test_names_of_files_say_no_split(tmp_path):
    put(tmp_path, "cat/train_1.png", "cat/test_2.png", "dog/val.png")
    assert sizes(tmp_path) == {"train": 3}


def test_folders_of_splits_are_splits_in_any_case(tmp_path):
    put(tmp_path, "Train/cat/1.png", "Valid/cat/2.png", "TEST/dog/3.png")
    assert sizes(tmp_path) == {"train": 1, "validation": 1, "test": 1}
    assert labels(tmp_path) == {"cat"}


def test_an_archive_that_holds_one_folder_is_that_folder(tmp_path):
    put(tmp_path, "archive/pets/train/cat/1.png", "archive/pets/train/dog/2.png")
    put(tmp_path, "archive/pets/val/cat/3.png", "__MACOSX/pets/._1.png")
    assert sizes(tmp_path) == {"train": 2, "validation": 1}
    assert labels(tmp_path) == {"cat", "dog"}


def test_pictures_of_mixed_depths_have_no_classes(tmp_path):
    put(tmp_path, "1.png", "cat/2.png")
    assert open_dataset(str(tmp_path))["train"].column_names == ["image"]


def test_what_a_system_hides_is_no_picture(tmp_path, caplog):
    put(tmp_path, "cat/1.png", "cat/._1.png", ".ipynb_checkpoints/2.png", "__MACOSX/3.png")
    (tmp_path / "cat" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "cat" / "Thumbs.db").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert sizes(tmp_path) == {"train": 1}
    assert not caplog.text


def test_pictures_that_are_not_read_are_named(tmp_path, caplog):
    put(tmp_path, "1.jfif", "2.png")
    (tmp_path / "3.HEIC").write_bytes(b"x")
    with caplog.at_level(logging.WARNING):
        assert sizes(tmp_path) == {"train": 2}
    assert "3.HEIC (.heic is not read: convert it" in caplog.text


@pytest.fixture
def metadata_folder(tmp_path) -> str:
    """Three pictures, metadata of two of them, and other tables."""
    put(tmp_path, "1.png", "2.png", "3.png")
    (tmp_path / "metadata.csv").write_text("file_name,caption\n1.png,new\n2.png,newer\n")
    (tmp_path / "captions.csv").write_text("file_name,caption\n1.png,old\n")
    (tmp_path / "settings.json").write_text('{"size": 3}')
    return str(tmp_path)


def test_metadata_comes_before_other_tables(metadata_folder):
    rows = open_dataset(metadata_folder)["train"]
    assert rows.column_names == ["image", "caption"]
    assert rows["caption"] == ["new", "newer"]


@pytest.mark.parametrize(
    "message", ["captions.csv (the dataset is read from table)", "1 pictures in"]
)
def test_what_metadata_leaves_out_is_named(message, metadata_folder, caplog):
    with caplog.at_level(logging.WARNING):
        open_dataset(metadata_folder)
    assert message in caplog.text


def test_metadata_in_folders_of_splits(tmp_path):
    for split in ("train", "val"):
        put(tmp_path, f"{split}/1.png")
        (tmp_path / split / "metadata.jsonl").write_text(
            json.dumps({"file_name": "1.png", "text": split}) + "\n"
        )
    splits = open_dataset(str(tmp_path))
    assert splits["validation"]["text"] == ["val"]
    assert splits["train"][0]["image"]["path"] == str(tmp_path / "train" / "1.png")


def test_a_table_without_pictures_beside_pictures_is_left_out(tmp_path, caplog):
    put(tmp_path, "cat/1.png")
    (tmp_path / "notes.csv").write_text("who,what\nme,this\n")
    (tmp_path / "config.json").write_text('{"a": [1, 2]}')
    with caplog.at_level(logging.WARNING):
        assert labels(tmp_path) == {"cat"}
    assert "notes.csv (it has no column of pictures)" in caplog.text


def test_tars_come_before_what_their_maker_left_beside_them(tmp_path):
    files = {"1.png": encode(draw_picture("red", 0)), "1.txt": b"one"}
    write_tar(tmp_path / "00000.tar", files)
    (tmp_path / "00000_stats.json").write_text('{"count": 1}')
    assert open_dataset(str(tmp_path))["train"]["caption"] == ["one"]


def test_a_folder_without_data_says_what_it_holds(tmp_path):
    (tmp_path / "notes.docx").write_bytes(b"x")
    with pytest.raises(DataError, match=r"holds no pictures, tables, .* only \.docx"):
        open_dataset(str(tmp_path))


def test_a_stream_finds_classes_by_the_same_rule(tmp_path):
    put(tmp_path, "cat/1.png", "train/2.png")
    kinds = peek_kinds(open_shards(str(tmp_path), "train"))
    assert kinds == {"image": "image", "label": "label"}


def test_a_stream_finds_tables_by_the_same_rule(tmp_path):
    put(tmp_path, "pictures/1.png")
    (tmp_path / "pairs.csv").write_text("image_path,caption\npictures/1.png,one\n")
    kinds = peek_kinds(open_shards(str(tmp_path), "train"))
    assert kinds == {"image_path": "text", "caption": "text"}
