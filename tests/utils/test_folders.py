"""Files and folders are replaced as a whole, or stay what they were."""

import json
import os

import pytest

from modeling_clip_vit.utils.folders import (
    committed_files,
    new_folder,
    replaced_file,
    replaced_folder,
    write_json,
)


class FailedError(Exception):
    """What ends a block halfway."""


def write_old(folder):
    folder.mkdir()
    (folder / "a.txt").write_text("old")
    (folder / "b.txt").write_text("old")


def test_a_folder_is_replaced_with_all_of_its_files(tmp_path):
    write_old(tmp_path / "out")
    with replaced_folder(tmp_path / "out") as partial:
        (partial / "a.txt").write_text("new")
        assert (tmp_path / "out" / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path / "out") == ["a.txt"]
    assert (tmp_path / "out" / "a.txt").read_text() == "new"


def write_folder(folder):
    with replaced_folder(folder) as partial:
        (partial / "a.txt").write_text("new")
        raise FailedError


def write_files(folder):
    with committed_files(folder, []) as partial:
        (partial / "a.txt").write_text("new")
        raise FailedError


def write_file(folder):
    with replaced_file(folder / "a.txt") as partial:
        partial.write_text("new")
        raise FailedError


def write_new_folder(folder):
    with new_folder(folder.with_name("new")) as partial:
        (partial / "a.txt").write_text("new")
        raise FailedError


@pytest.mark.parametrize("write", [write_folder, write_files, write_file, write_new_folder])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, write):
    write_old(tmp_path / "out")
    with pytest.raises(FailedError):
        write(tmp_path / "out")
    assert os.listdir(tmp_path) == ["out"]
    assert sorted(os.listdir(tmp_path / "out")) == ["a.txt", "b.txt"]
    assert (tmp_path / "out" / "a.txt").read_text() == "old"


def test_files_are_committed_next_to_others_and_named_once(tmp_path):
    write_old(tmp_path / "out")
    names = ["a.txt"]
    with committed_files(tmp_path / "out", names) as partial:
        (partial / "a.txt").write_text("new")
        (partial / "c.txt").write_text("new")
    assert names == ["a.txt", "c.txt"]
    assert {path.name: path.read_text() for path in (tmp_path / "out").iterdir()} == {
        "a.txt": "new",
        "b.txt": "old",
        "c.txt": "new",
    }


def test_a_file_is_written_under_a_name_with_its_suffix(tmp_path):
    with replaced_file(tmp_path / "picture.png") as partial:
        assert (partial.suffix, partial.parent) == (".png", tmp_path)
        partial.write_bytes(b"new")
    assert os.listdir(tmp_path) == ["picture.png"]


def test_json_keeps_characters_and_rejects_what_it_cannot_express(tmp_path):
    write_json(tmp_path / "a.json", {"颜色": [1.5, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert "颜色" in text
    assert json.loads(text) == {"颜色": [1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"loss": float("nan")})
