"""Every kind of source as real files: what is found in it, and what is said of a bad one."""

import base64
import csv
import json
import logging
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, List, Value

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.columns import (
    Columns,
    choose_image_column,
    choose_label_column,
    choose_texts,
    column_kinds,
)
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.images import decode_all
from modeling_clip_vit.data.labels import NO_CLASS, read_labels
from modeling_clip_vit.data.rows import BadSamples
from modeling_clip_vit.data.sources import get_split, open_dataset, open_shards, peek_kinds
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.tasks.contrastive import prepare
from tests.support.pictures import COLORS, draw_picture, encode
from tests.support.stream_files import caption_of, tar_files, write_tar, write_tars

NAMES = list(COLORS)[:4]


def picture(color: str) -> bytes:
    """The bytes of a PNG of a colour."""
    return encode(draw_picture(color, 7))


def decode(split: Dataset, column: str, limit: float) -> tuple[torch.Tensor, list[int], BadSamples]:
    """The pixels of a split, the row of each, and what could not be decoded."""
    bad = BadSamples(limit)
    pixels, rows = decode_all(split, column, 32, "x", bad, {})
    return pixels, rows, bad


def caption(color: str) -> str:
    return f"a {color} square"


def write_pictures(folder: Path) -> list[str]:
    """Four pictures in a folder; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    for color in NAMES:
        (folder / f"{color}.png").write_bytes(picture(color))
    return [f"{color}.png" for color in NAMES]


def rows_of(names: list[str], column: str = "file_name") -> list[dict]:
    """Rows of a table: where a picture lies and what it shows."""
    return [
        {column: name, "caption": caption(color)} for name, color in zip(names, NAMES, strict=True)
    ]


def write_table(path: Path, rows: list[dict]):
    """Rows as CSV, TSV, JSON lines, JSON or parquet, by the end of the name."""
    if path.suffix in (".csv", ".tsv"):
        with open(path, "w", newline="", encoding="utf-8") as file:
            table = csv.DictWriter(file, rows[0], delimiter="\t" if path.suffix == ".tsv" else ",")
            table.writeheader()
            table.writerows(rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def image_folder(folder: Path, kind: str) -> Path:
    """Pictures with their captions as ImageFolder has them."""
    write_table(folder / f"metadata.{kind}", rows_of(write_pictures(folder)))
    return folder


def table(folder: Path, name: str) -> Path:
    """A table of paths next to a folder of images."""
    names = write_pictures(folder / "pictures")
    write_table(folder / name, rows_of([f"pictures/{name}" for name in names], "image_path"))
    return folder


def table_of_base64(folder: Path) -> Path:
    rows = rows_of([base64.b64encode(picture(color)).decode() for color in NAMES], "image")
    write_table(folder / "pairs.tsv", rows)
    return folder / "pairs.tsv"


def parquet_of_bytes(folder: Path) -> Path:
    rows = [{"bytes": picture(color), "caption": caption(color)} for color in NAMES]
    write_table(folder / "pairs.parquet", rows)
    return folder / "pairs.parquet"


def pairs() -> Dataset:
    rows = [
        {"image": {"bytes": picture(color), "path": None}, "caption": caption(color)}
        for color in NAMES
    ]
    return Dataset.from_list(rows, features=Features(image=Image(), caption=Value("string")))


def saved(folder: Path, *, in_splits: bool) -> Path:
    rows = DatasetDict(train=pairs()) if in_splits else pairs()
    rows.save_to_disk(folder / "saved")
    return folder / "saved"


def arrow_file(folder: Path) -> Path:
    return next(saved(folder, in_splits=False).glob("*.arrow"))


def pair_tar(folder: Path) -> Path:
    files = {}
    for color in NAMES:
        files |= {f"{color}.png": picture(color), f"{color}.txt": caption(color).encode()}
    write_tar(folder / "pairs.tar", files)
    return folder


SOURCES = {
    "images, metadata.csv": lambda folder: image_folder(folder, "csv"),
    "images, metadata.jsonl": lambda folder: image_folder(folder, "jsonl"),
    "images, metadata.parquet": lambda folder: image_folder(folder, "parquet"),
    "csv folder": lambda folder: table(folder, "pairs.csv"),
    "csv file": lambda folder: table(folder, "pairs.csv") / "pairs.csv",
    "tsv file": lambda folder: table(folder, "pairs.tsv") / "pairs.tsv",
    "jsonl file": lambda folder: table(folder, "pairs.jsonl") / "pairs.jsonl",
    "json file": lambda folder: table(folder, "pairs.json") / "pairs.json",
    "pattern": lambda folder: table(folder, "pairs.csv") / "*.csv",
    "base64 in tsv": table_of_base64,
    "bytes in parquet": parquet_of_bytes,
    "save_to_disk": lambda folder: saved(folder, in_splits=False),
    "save_to_disk, splits": lambda folder: saved(folder, in_splits=True),
    "arrow file": arrow_file,
    "tar folder": pair_tar,
    "tar file": lambda folder: pair_tar(folder) / "pairs.tar",
}


@pytest.mark.parametrize("kind", SOURCES)
def test_pictures_and_captions_are_found_in_every_source(kind, tmp_path):
    path = str(SOURCES[kind](tmp_path))
    split = get_split(open_dataset(path), "train", path)
    kinds = column_kinds(split.features)
    column = choose_image_column(kinds, path)
    assert choose_texts(kinds, column, path) == (["caption"], None)
    pixels, _, _ = decode(split, column, 0)
    found = dict(zip(split["caption"], pixels, strict=True))
    for color in NAMES:
        expected = torch.frombuffer(bytearray(draw_picture(color, 7).tobytes()), dtype=torch.uint8)
        assert torch.equal(found[caption(color)], expected.view(32, 32, 3).permute(2, 0, 1)), color


@pytest.fixture(params=[True, False], ids=["splits", "no splits"])
def class_folders(tmp_path, request):
    """Splits of four pictures of each of two classes, in folders."""
    for split in ("train", "validation") if request.param else ("",):
        for name in ("cat", "sports_car"):
            write_pictures(tmp_path / split / name)
    splits = open_dataset(str(tmp_path))
    assert set(splits) == ({"train", "validation"} if request.param else {"train"})
    return splits


def test_folders_of_classes_are_labels(class_folders):
    labels = read_labels(class_folders["train"], "label", "x")
    assert labels.names == ["cat", "sports_car"]
    assert sorted(labels.rows) == [0] * 4 + [1] * 4


def test_texts_of_folders_of_classes_are_made_of_the_classes(class_folders):
    kinds = column_kinds(class_folders["train"].features)
    assert choose_texts(kinds, choose_image_column(kinds, "x"), "x") == ([], "label")


def test_the_name_of_a_table_says_its_split(tmp_path):
    names = write_pictures(tmp_path)
    for file in ("train.csv", "my-val.csv", "test_2.csv", "pretrained.csv"):
        write_table(tmp_path / file, rows_of(names))
    splits = open_dataset(str(tmp_path))
    assert {name: len(split) for name, split in splits.items()} == {
        "train": 8,
        "validation": 4,
        "test": 4,
    }


def test_a_caption_that_reads_null_is_a_caption(tmp_path):
    rows = rows_of(write_pictures(tmp_path))
    rows[1]["caption"], rows[2]["caption"] = "null", "NA"
    write_table(tmp_path / "pairs.csv", rows)
    assert open_dataset(str(tmp_path / "pairs.csv"))["train"]["caption"][1:3] == ["null", "NA"]


def test_a_table_that_changed_is_read_anew(tmp_path):
    rows = rows_of(write_pictures(tmp_path))
    write_table(tmp_path / "pairs.csv", rows)
    assert len(open_dataset(str(tmp_path))["train"]) == 4
    write_table(tmp_path / "pairs.csv", rows[:3])
    assert len(open_dataset(str(tmp_path))["train"]) == 3


@pytest.fixture
def broken_tars(tmp_path) -> Path:
    """Tars of 11 samples, and one whose JSON is broken."""
    folder = write_tars(tmp_path / "tars", [5, 4])
    files = tar_files(range(9, 11))
    files["00011.json"] = b"{broken"
    files["00011.png"] = picture("red")
    write_tar(folder / "00002.tar", files)
    return folder


def test_samples_of_tars_have_random_access(broken_tars):
    split = open_dataset(str(broken_tars))["train"]
    assert len(split) == 11
    assert [split[place]["caption"] for place in (10, 0, 7)] == [caption_of(n) for n in (10, 0, 7)]


def test_a_picture_of_a_tar_is_named_by_its_tar_and_key(broken_tars):
    split = open_dataset(str(broken_tars))["train"]
    assert split[10]["image"]["path"] == "00002.tar, 00010"


def test_a_broken_sample_of_a_tar_is_named_when_it_is_opened(broken_tars, caplog):
    with caplog.at_level(logging.WARNING):
        open_dataset(str(broken_tars))
    assert "00002.tar, 00011: its json cannot be read" in caplog.text


@pytest.fixture
def incomplete_table(tmp_path) -> tuple[Dataset, Path]:
    """A table of four pictures, and the third one, which is missing."""
    folder = table(tmp_path, "pairs.csv")
    missing = folder / "pictures" / "blue.png"
    missing.unlink()
    return open_dataset(str(folder))["train"], missing


def test_a_missing_picture_of_a_table_is_left_out_and_named(incomplete_table):
    split, missing = incomplete_table
    _, rows, bad = decode(split, "image_path", 0.5)
    assert rows == [0, 1, 3]
    assert bad.count == 1
    assert bad.examples[0].startswith(f"row 2, {missing} (FileNotFoundError")


def test_too_many_missing_pictures_are_rejected(incomplete_table):
    split, _ = incomplete_table
    with pytest.raises(DataError, match=r"1 of 4 rows of 'x' cannot be used, .* row 2, .*blue"):
        decode(split, "image_path", 0.01)


@pytest.mark.parametrize(
    ("limit", "message"),
    [
        (0.01, r"3 of 3 rows of 'x' cannot be used.*0\.png"),
        (1, r"no row of 'x' can be used; the first: .*0\.png"),
    ],
)
def test_a_folder_without_a_readable_picture_is_rejected(limit, message, tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"no picture")
    split = open_dataset(str(tmp_path))["train"]
    with pytest.raises(DataError, match=message):
        decode(split, "image", limit)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("./nowhere", "no folder './nowhere'"),
        ("nowhere/data.csv", "no folder 'nowhere/data.csv'"),
        ("FOLDER/*.csv", "no file fits the pattern"),
        ("FOLDER/notes.docx", "must end in one of .parquet, .pq, .arrow, .csv"),
        ("FOLDER/mixed", r"files of several kinds \(.csv, .jsonl\)"),
        ("FOLDER/nothing", "holds no pictures, tables, tars or Parquet files"),
    ],
)
def test_what_is_not_there_or_not_known_is_rejected_in_one_line(path, message, tmp_path):
    (tmp_path / "notes.docx").write_bytes(b"text")
    (tmp_path / "mixed").mkdir()
    for name in ("a.csv", "b.jsonl"):
        write_table(tmp_path / "mixed" / name, [{"caption": "one"}])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(path.replace("FOLDER", str(tmp_path)))
    assert "\n" not in str(caught.value)


def test_a_table_without_rows_is_rejected(tmp_path):
    table(tmp_path, "train.csv")
    (tmp_path / "validation.csv").write_text("image_path,caption\n")
    with pytest.raises(DataError, match=r"split 'validation' of .* is empty"):
        open_dataset(str(tmp_path))


def test_an_empty_split_is_rejected():
    splits = DatasetDict(train=pairs(), validation=pairs().select([]))
    with pytest.raises(DataError, match="split 'validation' of 'x' is empty"):
        get_split(splits, "validation", "x")


KINDS = {
    "uoft-cs/cifar10": (
        {"img": Image(), "label": ClassLabel(names=["airplane", "automobile"])},
        ("img", [], "label"),
    ),
    "a list of captions": (
        {"image": Image(), "captions": List(Value("string")), "id": Value("string")},
        ("image", ["captions"], None),
    ),
    "two languages": (
        {"image": Image(), "caption_en": Value("string"), "caption_zh": Value("string")},
        ("image", ["caption_en", "caption_zh"], None),
    ),
    "the only image and the only text": (
        {"scan": Image(), "said": Value("string"), "size": Value("int64")},
        ("scan", ["said"], None),
    ),
    "several images": (
        {"mask": Image(), "Image": Image(), "text": Value("large_string")},
        ("Image", ["text"], None),
    ),
    "bytes": (
        {"jpg": Value("binary"), "txt": Value("string"), "json": Value("string")},
        ("jpg", ["txt"], None),
    ),
    "paths": (
        {"file_name": Value("string"), "text": Value("string"), "label": Value("string")},
        ("file_name", ["text"], None),
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_columns_are_guessed_by_type_and_name(name):
    features, (image, captions, label) = KINDS[name]
    kinds = column_kinds(Features(features))
    assert choose_image_column(kinds, "x") == image
    assert choose_texts(kinds, image, "x") == (captions, label)


@pytest.mark.parametrize(
    ("choose", "message"),
    [
        (choose_image_column, "set image_column to one of left, right, one, two"),
        (choose_label_column, "set label_column to one of left, right, one, two"),
        (
            lambda kinds, path: choose_texts(kinds, "left", path),
            "set caption_columns, .* it has left, right, one, two",
        ),
    ],
    ids=["image", "label", "texts"],
)
def test_an_ambiguous_column_must_be_named(choose, message):
    features = Features(left=Image(), right=Image(), one=Value("string"), two=Value("string"))
    with pytest.raises(DataError, match=message):
        choose(column_kinds(features), "x")


def test_a_stream_of_tars_says_what_its_columns_hold(tmp_path):
    kinds = peek_kinds(open_shards(str(write_tars(tmp_path / "tars", [2])), "train"))
    assert choose_image_column(kinds, "x") == "image"
    assert choose_texts(kinds, "image", "x") == (["caption"], None)


def test_a_stream_of_parquet_says_what_its_columns_hold(tmp_path):
    pairs().to_parquet(tmp_path / "pairs.parquet")
    kinds = peek_kinds(open_shards(str(tmp_path / "pairs.parquet"), "train"))
    assert kinds == {"image": "image", "caption": "text"}


def labelled(values: list, feature) -> Dataset:
    return Dataset.from_dict({"label": values}, features=Features(label=feature))


@pytest.mark.parametrize(
    ("values", "feature", "names", "rows"),
    [
        ([1, 0, 1], ClassLabel(names=["dog", "cat"]), ["dog", "cat"], [1, 0, 1]),
        (["dog", " cat", "dog"], Value("string"), ["cat", "dog"], [1, 0, 1]),
        ([10, 9, 10], Value("int64"), ["9", "10"], [1, 0, 1]),
    ],
)
def test_classes_are_class_labels_texts_or_numbers(values, feature, names, rows):
    labels = read_labels(labelled(values, feature), "label", "x")
    assert (labels.names, labels.rows) == (names, rows)


def test_classes_of_another_split_are_matched_by_name():
    other = labelled([0, 1], ClassLabel(names=["cat", "dog"]))
    assert read_labels(other, "label", "x", ["dog", "cat"]).rows == [1, 0]


@pytest.mark.parametrize(
    ("values", "feature", "told"),
    [
        ([0, -1], ClassLabel(names=["a", "b"]), "its 'label' has the class -1, of 0 to 1"),
        ([0, None], ClassLabel(names=["a", "b"]), "its 'label' has no class"),
        (["a", None], Value("string"), "its 'label' is empty"),
        (["a", " "], Value("string"), "its 'label' is empty"),
        ([1.0, float("nan")], Value("float64"), "its 'label' is empty"),
        (["a", "c"], Value("string"), "its 'label' is 'c', .* none of the classes: a, b"),
    ],
)
def test_a_row_without_a_class_is_named(values, feature, told):
    names = ["a", "b"] if "none of the classes" in told else None
    labels = read_labels(labelled(values, feature), "label", "x", names)
    assert labels.rows == [0, NO_CLASS]
    assert list(labels.problems) == [1]
    assert re.match(told, labels.problems[1])


@pytest.mark.parametrize(
    ("values", "feature", "told"),
    [
        ([0.5, 1.0], Value("float32"), "column 'label' of 'x' holds float, not classes"),
        ([None, None], ClassLabel(names=[]), "class labels of column 'label' of 'x' have no names"),
        (
            [None, None],
            Value("string"),
            "no row of 'x' has a class: .* is empty",
        ),
    ],
)
def test_a_column_without_classes_is_rejected(values, feature, told):
    with pytest.raises(DataError, match=told):
        read_labels(labelled(values, feature), "label", "x")


def test_a_missing_column_of_classes_is_rejected():
    with pytest.raises(DataError, match="no column 'class': it has label"):
        read_labels(labelled(["a"], Value("string")), "class", "x")


def test_a_long_path_is_not_base64(tmp_path):
    deep = "/".join(["folder_of_pictures"] * 5)
    names = [f"{deep}/{name}" for name in write_pictures(tmp_path / deep)]
    write_table(tmp_path / "pairs.csv", rows_of(names))
    split = open_dataset(str(tmp_path / "pairs.csv"))["train"]
    assert split[0]["file_name"] == {"bytes": None, "path": str(tmp_path / names[0])}


ONE_LINE = {
    "images, metadata.csv": (["caption"], None),
    "class folders": ([], "label"),
    "base64 in tsv": (["caption"], None),
    "stream of tars": (["caption"], None),
}


@pytest.mark.parametrize("kind", ONE_LINE)
def test_one_line_is_enough_to_train(kind, tmp_path, linear_config):
    captions, label = ONE_LINE[kind]
    if kind == "class folders":
        for color in NAMES[:2]:
            write_pictures(tmp_path / color)
        field = ["--dataset", str(tmp_path)]
    elif kind == "stream of tars":
        field = ["--stream_sources", f"[{pair_tar(tmp_path)}]", "--max_steps", "1"]
    else:
        field = ["--dataset", str(SOURCES[kind](tmp_path))]
    small = ["--per_device_train_batch_size", "4", "--model_config", str(linear_config)]
    preparation = prepare(parse_arguments([*field, *small, "--evaluations", "[]"]))
    assert preparation.columns == Columns("image", captions, label)
    preparation.data.sampler.set_epoch(0)
    batch = next(iter(preparation.data.loader))
    assert batch["pixel_values"].shape == (4, 3, 32, 32)
    texts = preparation.processor.tokenizer.batch_decode(
        batch["input_ids"], skip_special_tokens=True
    )
    written = NAMES[:2] if label else list(map(caption, NAMES))
    assert all(any(words in text for words in written) for text in texts)


@pytest.mark.parametrize(
    ("field", "message"),
    [
        (["--image_column", "img"], "no column 'img': it has image, caption"),
        (["--caption_columns", "[text]"], "no column 'text': it has image, caption"),
        (["--label_column", "label"], "no column 'label': it has image, caption"),
        (["--concept_column", "key"], "no column 'key': it has image, caption"),
        (
            ["--per_device_train_batch_size", "5"],
            "the dataset has 4: use a smaller per_device_train_batch_size",
        ),
        (["--evaluations", "[{split: dev}]"], "no split 'dev': it has train; name another with"),
    ],
)
def test_a_run_that_asks_for_what_the_dataset_lacks_ends_in_one_sentence(
    field, message, tmp_path, linear_config, capsys
):
    options = {
        "--dataset": str(image_folder(tmp_path, "csv")),
        "--model_config": str(linear_config),
        "--evaluations": "[]",
        "--per_device_train_batch_size": "4",
        "--output_dir": str(tmp_path / "out"),
        field[0]: field[1],
    }
    assert main(["train", *(word for option in options.items() for word in option)]) == 1
    [error] = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert message in error
