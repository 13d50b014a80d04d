"""Tables as people have them: encodings, delimiters, quotation marks, and single bad lines."""

import base64
import json
from pathlib import Path

import pytest

from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.files.tables import read_table
from modeling_clip_vit.data.labels import read_labels
from modeling_clip_vit.data.sources import get_problems, open_dataset
from tests.support.pictures import draw_picture, encode


def rows_of(path: Path, content: str | bytes, encoding: str = "utf-8") -> list:
    """What is read of a table."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
    return [columns for _, columns in read_table(path)]


def captions_of(path: Path, content: str | bytes, encoding: str = "utf-8") -> list:
    """The captions of a table."""
    rows = rows_of(path, content, encoding)
    return [columns["caption"] if isinstance(columns, dict) else columns for columns in rows]


@pytest.mark.parametrize(
    ("encoding", "caption"),
    [
        ("utf-8-sig", "a café"),
        ("utf-16", "一只猫"),
        ("gbk", "一只红色的猫坐在窗台上晒太阳"),
        ("cp1252", "un café crème à Liège, schöne Grüße"),
    ],
)
@pytest.mark.parametrize("name", ["pairs.csv", "pairs.tsv"])
def test_every_usual_encoding_is_read(name, encoding, caption, tmp_path):
    delimiter = "\t" if name.endswith("tsv") else ";"
    content = f"file_name{delimiter}caption\n1.png{delimiter}{caption}\n"
    assert captions_of(tmp_path / name, content, encoding) == [caption]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_delimiter_is_the_one_that_cuts_evenly(delimiter, tmp_path):
    content = f"file_name{delimiter}caption\n1.png{delimiter}one\n2.png{delimiter}two\n"
    assert captions_of(tmp_path / "pairs.csv", content) == ["one", "two"]


def test_a_quotation_mark_in_a_tsv_swallows_no_lines(tmp_path):
    content = 'file_name\tcaption\n1.png\t"a remark\n2.png\ttwo\n3.png\ta 5" disk\n4.png\t"q"\n'
    found = captions_of(tmp_path / "pairs.tsv", content)
    assert found == ['"a remark', "two", 'a 5" disk', "q"]


def test_a_quotation_mark_in_a_csv_swallows_no_lines(tmp_path):
    content = 'file_name,caption\n1.png,"so "he" said\n2.png,two\n3.png,"three, four"\n'
    assert captions_of(tmp_path / "pairs.csv", content) == ['"so "he" said', "two", "three, four"]


def test_a_quoted_field_may_hold_lines(tmp_path):
    content = 'file_name,caption\n1.png,"one\ntwo, ""three"""\n2.png,four\n'
    assert captions_of(tmp_path / "pairs.csv", content) == ['one\ntwo, "three"', "four"]


def test_a_line_with_a_field_too_many_is_named_and_the_others_are_read(tmp_path):
    content = "file_name,caption\n1.png,one\n2.png,two,three\n3.png,four\n"
    assert captions_of(tmp_path / "pairs.csv", content) == [
        "one",
        "it has 3 fields, but the header has 2",
        "four",
    ]


def test_bytes_of_no_character_spoil_their_line_alone(tmp_path):
    content = b"file_name,caption\n1.png,one\n2.png,\xff\xfe\n3.png,\xe4\xb8\x80\n4.png,\xc3\xa9\n"
    bad = "its 'caption' has bytes that are no characters"
    assert captions_of(tmp_path / "pairs.csv", content) == ["one", bad, "一", "é"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"caption": "\\ud800"}', "its 'caption' has bytes that are no characters"),
        ('{"caption": ', "it is no JSON"),
        ("[1]", "it is no object but list"),
    ],
)
def test_a_line_that_is_no_row_spoils_nothing_else(line, message, tmp_path):
    content = f'{{"caption": "one"}}\n{line}\n\n{{"caption": "two"}}\n'
    one, bad, two = captions_of(tmp_path / "pairs.jsonl", content)
    assert (one, two) == ("one", "two")
    assert bad.startswith(message)


@pytest.mark.parametrize(
    "content",
    [
        [{"file_name": "1.png", "caption": "one"}],
        {"data": [{"file_name": "1.png", "caption": "one"}], "version": 1},
        {"file_name": ["1.png"], "caption": ["one"]},
    ],
)
def test_json_is_a_list_of_objects_or_of_columns(content, tmp_path):
    assert captions_of(tmp_path / "pairs.json", json.dumps(content)) == ["one"]


@pytest.mark.parametrize(
    ("content", "message"), [('{"a": 1}', "holds no rows"), ("{", "is no JSON")]
)
def test_json_of_something_else_is_rejected(content, message, tmp_path):
    with pytest.raises(DataError, match=message):
        rows_of(tmp_path / "pairs.json", content)


def write_jsonl(folder: Path, rows: list[dict]) -> str:
    for row in rows:
        (folder / row["file_name"]).write_bytes(encode(draw_picture("red", 0)))
    path = folder / "metadata.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder)


def test_captions_that_are_now_a_text_and_now_a_list_are_lists(tmp_path):
    rows = [{"file_name": "1.png", "caption": "one"}, {"file_name": "2.png", "caption": ["a", "b"]}]
    split = open_dataset(write_jsonl(tmp_path, rows))["train"]
    assert split["caption"] == [["one"], ["a", "b"]]


def test_captions_of_digits_in_a_csv_are_texts_and_other_columns_numbers(tmp_path):
    (tmp_path / "1.png").write_bytes(encode(draw_picture("red", 0)))
    (tmp_path / "pairs.csv").write_text("file_name,caption,size\n1.png,007,12\n")
    row = open_dataset(str(tmp_path / "pairs.csv"))["train"][0]
    assert (row["caption"], row["size"]) == ("007", 12)


def test_captions_that_are_numbers_are_texts(tmp_path):
    rows = [{"file_name": "1.png", "caption": 2024}]
    assert open_dataset(write_jsonl(tmp_path, rows))["train"]["caption"] == ["2024"]


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("pairs.csv", "file_name,label\n1.png,007\n2.png,-1\n3.png,12\n", ["-1", "007", "12"]),
        ("pairs.jsonl", '{"file_name": "1.png", "label": 3.0}\n', ["3"]),
    ],
)
def test_numbers_as_labels_keep_their_form(name, content, names, tmp_path):
    (tmp_path / name).write_text(content)
    split = open_dataset(str(tmp_path / name))["train"]
    assert read_labels(split, "label", "x").names == names


def test_a_number_beyond_64_bits_stops_nothing(tmp_path):
    rows = [{"file_name": "1.png", "caption": "one", "hash": 2**70}]
    row = open_dataset(write_jsonl(tmp_path, rows))["train"][0]
    assert (row["caption"], row["hash"]) == ("one", str(2**70))


def test_lines_that_cannot_be_read_are_problems_of_their_split(tmp_path):
    path = tmp_path / "pairs.csv"
    path.write_text("file_name,caption\n1.png,one\n2.png,two,three\n")
    splits = open_dataset(str(path))
    assert len(splits["train"]) == 1
    [problem] = get_problems(splits, "train")
    assert problem.name == "pairs.csv, row 1"


def test_pictures_in_a_table_are_base64_or_data_uris(tmp_path):
    content = encode(draw_picture("red", 0))
    text = base64.b64encode(content).decode()
    lines = ["image\tcaption", f"{text}\tone", f"data:image/png;base64,{text}\ttwo"]
    (tmp_path / "pairs.tsv").write_text("\n".join(lines))
    split = open_dataset(str(tmp_path / "pairs.tsv"))["train"]
    assert [image["bytes"] for image in split["image"]] == [content, content]


def test_a_name_of_hexadecimal_digits_is_a_name(tmp_path):
    name = "0123456789abcdef" * 4
    (tmp_path / name).write_bytes(encode(draw_picture("red", 0)))
    (tmp_path / "pairs.csv").write_text(f"file_name,caption\n{name},one\n")
    split = open_dataset(str(tmp_path / "pairs.csv"))["train"]
    assert split[0]["file_name"] == {"bytes": None, "path": str(tmp_path / name)}


@pytest.mark.parametrize(("written", "on_disk"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_name_is_found_in_any_form_of_unicode(written, on_disk, tmp_path):
    from unicodedata import normalize

    folder = tmp_path / normalize(on_disk, "été")
    folder.mkdir()
    path = folder / normalize(on_disk, "señal.png")
    path.write_bytes(encode(draw_picture("red", 0)))
    (tmp_path / "pairs.csv").write_text(
        f"file_name,caption\n{normalize(written, 'été/señal.png')},one\n", encoding="utf-8"
    )
    split = open_dataset(str(tmp_path / "pairs.csv"))["train"]
    assert split[0]["file_name"]["path"] == str(path)


def test_backslashes_of_windows_are_slashes(tmp_path):
    (tmp_path / "pictures").mkdir()
    path = tmp_path / "pictures" / "1.png"
    path.write_bytes(encode(draw_picture("red", 0)))
    (tmp_path / "pairs.csv").write_text("file_name,caption\npictures\\1.png,one\n")
    assert open_dataset(str(tmp_path / "pairs.csv"))["train"][0]["file_name"]["path"] == str(path)


def test_pictures_at_web_addresses_are_rejected(tmp_path):
    (tmp_path / "pairs.csv").write_text("image,caption\nhttps://example.org/1.png,one\n")
    with pytest.raises(DataError, match="is an address: pictures are not downloaded here"):
        open_dataset(str(tmp_path / "pairs.csv"))
