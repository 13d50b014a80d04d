"""Searching an index: what is found, how it is shown, and how it starts."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.search.engine import PictureSearch, nearest
from modeling_clip_vit.search.filters import parse_filter
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.snapshot import local_version
from tests.support.indexes import make_index, rows_of, write_photograph, write_pictures

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 40)
    write_photograph(folder / "photo.jpg", date="2024:02:29 12:30:00", model="it's a camera")
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory, exported, pictures) -> PictureIndex:
    return make_index(exported, pictures, tmp_path_factory.mktemp("index") / "i")


@pytest.fixture
def copied(index, tmp_path) -> Path:
    """A copy of the index that a test may change."""
    return shutil.copytree(index.name, tmp_path / "copied")


def cosines(index: PictureIndex, text: str) -> dict[str, float]:
    """Id -> cosine with a text, computed row by row."""
    [query] = index.text_encoder()([text])
    rows = rows_of(index)
    return {id: float(np.dot(row["vector"], query)) for id, row in rows.items() if row["vector"]}


def test_the_nearest_are_those_of_the_largest_cosine_in_order(index):
    search = PictureSearch(index)
    found = search(search.embed("a red square"), top_k=7)
    expected = cosines(index, "a red square")
    assert [hit.score for hit in found.hits] == pytest.approx(sorted(expected.values())[:-8:-1])
    for hit in found.hits:
        assert hit.score == pytest.approx(expected[hit.row["id"]], abs=1e-5)
    assert (found.searched, found.unreadable) == (41, 1)


def test_a_picture_finds_itself(index, pictures):
    search = PictureSearch(index)
    found = search(search.embed(None, [str(pictures / "photo.jpg")]), top_k=1)
    assert found.hits[0].row["id"] == "photo.jpg"
    assert found.hits[0].score > 0.99


def test_more_than_there_are_gives_all(index):
    search = PictureSearch(index)
    assert len(search(search.embed("red"), top_k=99).hits) == 41


def test_a_filter_is_applied_before_the_search(index):
    search = PictureSearch(index)
    condition = parse_filter("path like 'a/%' and size > 0", search.schema)
    found = search(search.embed("red"), 5, condition)
    expected = {id: it for id, it in cosines(index, "red").items() if id.startswith("a/")}
    assert found.searched == len(expected) == 20
    assert [hit.score for hit in found.hits] == pytest.approx(sorted(expected.values())[:-6:-1])


def test_a_row_is_what_the_table_holds(index):
    search = PictureSearch(index)
    [hit] = search(search.embed("red"), 1, parse_filter("camera is not null", search.schema)).hits
    expected = rows_of(index)["photo.jpg"]
    assert hit.row == {name: value for name, value in expected.items() if name != "vector"}
    assert hit.row["taken"] == datetime(2024, 2, 29, 12, 30)


def test_pictures_that_are_added_are_found_at_once(index, copied, pictures, tmp_path):
    search = PictureSearch(PictureIndex.open(copied))
    more = tmp_path / "more"
    more.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(noise).save(more / "noise.png")
    query = search.embed(None, [str(more / "noise.png")])
    assert search(query, 1).hits[0].row["name"] != "noise.png"
    assert main(["index", str(copied / "model"), str(more), str(copied)]) == 0
    assert search(query, 1).hits[0].row["name"] == "noise.png"
    assert search(query, 1).searched == 42


def test_the_copy_of_the_table_is_that_of_its_version_alone(copied):
    search = PictureSearch(PictureIndex.open(copied))
    search(search.embed("red"))
    search.index.table.delete("id = 'photo.jpg'")
    assert search(search.embed("red"), 99).searched == 40
    [kept] = (copied / "search").glob("snapshot-*")
    assert kept.name == f"snapshot-{local_version(copied)}"
    assert local_version(copied) == PictureIndex.open(copied).table.version


def test_a_damaged_copy_is_made_anew(copied):
    search = PictureSearch(PictureIndex.open(copied))
    expected = search(search.embed("red")).hits
    [kept] = (copied / "search").glob("snapshot-*")
    (kept / "vectors.npy").write_bytes((kept / "vectors.npy").read_bytes()[:500])
    again = PictureSearch(PictureIndex.open(copied))
    assert again(again.embed("red")).hits == expected


def test_an_index_that_can_only_be_read_is_searched(copied, monkeypatch):
    monkeypatch.setattr("modeling_clip_vit.search.engine.write_snapshot", refuse)
    search = PictureSearch(PictureIndex.open(copied))
    assert len(search(search.embed("red")).hits) == 5


def refuse(*arguments):
    raise PermissionError(13, "Permission denied")


def test_equal_scores_come_in_the_order_of_the_table():
    scores = np.array([0.5, 0.9, 0.5, 0.9, 0.1], np.float32)
    assert nearest(scores, 4).tolist() == [1, 3, 0, 2]
    assert nearest(scores, 9).tolist() == [1, 3, 0, 2, 4]


@pytest.mark.parametrize("top_k", [1, 7, 100])
def test_the_highest_of_many_scores_are_those_of_a_full_sort(top_k):
    scores = np.random.default_rng(0).integers(0, 500, 20_011).astype(np.float32)
    expected = np.lexsort((np.arange(len(scores)), -scores))[:top_k]
    assert nearest(scores, top_k).tolist() == expected.tolist()


def run(capsys, index: PictureIndex | Path | str, *arguments: str) -> str:
    """The output of a search that works."""
    name = index.name if isinstance(index, PictureIndex) else str(index)
    assert main(["search", name, *arguments]) == 0
    return capsys.readouterr().out


def test_paths_are_absolute_and_best_first(index, pictures, capsys):
    paths = run(capsys, index, "red", "--format", "paths", "--top_k", "3").splitlines()
    best = sorted(cosines(index, "red").items(), key=lambda item: -item[1])[:3]
    assert paths == [str(pictures.resolve() / id) for id, _ in best]


def test_json_has_every_column_and_what_was_searched(index, capsys):
    content = json.loads(run(capsys, index, "red", "--format", "json", "--where", "width = 128"))
    assert (content["query"], content["searched"]) == ("red", 1)
    [hit] = content["hits"]
    assert hit["taken"] == "2024-02-29T12:30:00"
    assert hit["fits"] in (True, False)


def test_csv_has_a_line_per_hit(index, capsys):
    lines = list(csv.DictReader(io.StringIO(run(capsys, index, "red", "--format", "csv"))))
    assert [line["rank"] for line in lines] == ["1", "2", "3", "4", "5"]
    assert float(lines[0]["score"]) >= float(lines[4]["score"])


def test_hits_sorted_by_date_are_the_same_hits(index, capsys):
    by_score = run(capsys, index, "red", "--format", "paths", "--top_k", "41").splitlines()
    by_date = run(capsys, index, "red", "--format", "paths", "--top_k", "41", "--sort", "date")
    assert sorted(by_date.splitlines()) == sorted(by_score)
    assert Path(by_date.splitlines()[-1]).name == "photo.jpg"


def test_what_does_not_fit_can_be_left_out(index, capsys):
    assert run(
        capsys, index, "red", "--only_fitting", "true", "--min_margin", "99"
    ).splitlines() == [f"'red' in 41 pictures of {index.name}: nothing fits"]
    shown = run(capsys, index, "red", "--min_margin", "-99", "--top_k", "2")
    assert "at least 2 fit" in shown
    assert "fits" in shown.splitlines()[1]


def test_a_folder_a_date_and_a_condition_hold_together(index, capsys):
    arguments = ["--under", "a", "--since", "1d", "--where", "width < 100 and camera is null"]
    content = json.loads(run(capsys, index, "red", "--format", "json", *arguments))
    assert content["searched"] == 20


@pytest.mark.parametrize(("folder", "near"), [("aa", "a"), ("nothing", "a, b")])
def test_a_folder_that_is_not_there_is_answered_with_those_that_are(index, folder, near, capsys):
    assert main(["search", index.name, "red", "--under", folder]) == 1
    message = f"error: there is no folder '{folder}' in {index.name}; there are {near}, …\n"
    assert capsys.readouterr().err == message


def test_a_folder_from_which_a_condition_leaves_nothing_is_there(index, capsys):
    shown = run(capsys, index, "red", "--under", "a", "--where", "width > 5000")
    assert shown == f"'red' in 0 pictures of {index.name}: none to search\n"


def test_a_search_says_where_what_cannot_be_read_is_listed(index, capsys):
    assert main(["search", index.name, "red"]) == 0
    expected = f"1 pictures of the index cannot be read: clip-vit info {index.name} lists them\n"
    assert capsys.readouterr().err == expected


def test_hits_are_copied_as_they_are(index, pictures, tmp_path, capsys):
    target = tmp_path / "found"
    paths = run(capsys, index, "red", "--format", "paths", "--copy_to", str(target)).splitlines()
    copies = sorted(target.iterdir())
    assert [path.name[:4] for path in copies] == ["001_", "002_", "003_", "004_", "005_"]
    for path, copy in zip(paths, copies, strict=True):
        assert copy.read_bytes() == Path(path).read_bytes()


def test_a_picture_that_vanished_is_named_and_nothing_is_copied(exported, tmp_path, capsys):
    write_pictures(tmp_path / "p", 3)
    index = make_index(exported, tmp_path / "p", tmp_path / "i")
    shutil.rmtree(tmp_path / "p" / "a")
    assert main(["search", index.name, "red", "--copy_to", str(tmp_path / "found")]) == 1
    assert "a/001" in capsys.readouterr().err
    assert not (tmp_path / "found").exists()


def test_a_picture_of_the_hits_is_saved(index, tmp_path, capsys):
    run(capsys, index, "red + 狗 $x_", "--save", str(tmp_path / "grid.png"), "--top_k", "2")
    assert Image.open(tmp_path / "grid.png").width > 200


def test_a_name_cannot_move_the_cursor(exported, tmp_path, capsys):
    (tmp_path / "p").mkdir()
    for number in range(2):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(tmp_path / "p" / f"\x1b[2J{number}.png")
    index = make_index(exported, tmp_path / "p", tmp_path / "i")
    capsys.readouterr()
    shown = run(capsys, index, "red\x1b[1m")
    assert "\x1b" not in shown
    assert "�[2J0.png" in shown


def test_a_collection_of_a_few_pictures_makes_no_statement(exported, tmp_path, capsys):
    write_pictures(tmp_path / "p", 5)
    index = make_index(exported, tmp_path / "p", tmp_path / "i")
    capsys.readouterr()
    content = json.loads(run(capsys, index, "red", "--format", "json"))
    assert {hit["fits"] for hit in content["hits"]} == {None}
    assert content["nothing_fits"] is False


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([""], "the query is empty"),
        ([], "the query is empty"),
        (["x" * 10_000], "the query has 10,000 characters"),
        (["red", "--where", "colour = 'red'"], "there is no column 'colour'; write conditions"),
        (["red", "--where", ""], "it is empty"),
        (["red", "--where", "x'; drop table pictures; --"], "is not expected there"),
        (["red", "--since", "tomorrow"], "is not a date"),
        (["red", "--under", "."], "names no folder"),
        (["red", "--similar", "nowhere.png"], "there is no picture 'nowhere.png'"),
        (["red", "--copy_to", "."], "the current folder cannot be replaced"),
        (["red", "--save", "grid.docx"], "cannot be the name of a picture"),
    ],
)
def test_what_cannot_be_searched_ends_in_one_sentence(index, arguments, sentence, capsys):
    assert main(["search", index.name, *arguments]) == 1
    output = capsys.readouterr()
    assert sentence in output.err
    assert output.err.count("\n") == 1
    assert not output.out


def test_a_file_that_is_no_picture_cannot_be_searched_with(index, tmp_path, capsys):
    (tmp_path / "x.png").write_text("no picture")
    assert main(["search", index.name, "--similar", str(tmp_path / "x.png")]) == 1
    assert "x.png' cannot be read" in capsys.readouterr().err


def test_a_missing_index_says_how_to_make_one(tmp_path, capsys):
    assert main(["search", str(tmp_path / "none"), "red"]) == 1
    assert "make one with clip-vit index CHECKPOINT IMAGES" in capsys.readouterr().err


def test_a_model_in_the_place_of_an_index_is_recognised(checkpoint, capsys):
    assert main(["search", str(checkpoint), "red"]) == 1
    assert "is a model, not an index" in capsys.readouterr().err


def test_an_index_of_a_newer_version_is_rejected(copied, capsys):
    settings = json.loads((copied / "index.json").read_text())
    (copied / "index.json").write_text(json.dumps(settings | {"version": 99}))
    assert main(["search", str(copied), "red"]) == 1
    assert "has version 99" in capsys.readouterr().err


def test_an_index_without_its_table_ends_in_one_sentence(copied, capsys):
    shutil.rmtree(copied / "pictures.lance")
    shutil.rmtree(copied / "search", ignore_errors=True)
    assert main(["search", str(copied), "red"]) == 1
    assert "cannot be opened" in capsys.readouterr().err


def test_the_form_without_an_index_works_and_says_how_to_keep_one(checkpoint, pictures, capsys):
    assert main(["search", str(checkpoint), "red", "--images", str(pictures)]) == 0
    output = capsys.readouterr()
    assert output.out.startswith(f"'red' in 41 pictures of {pictures}:")
    assert f"keep an index: clip-vit index {checkpoint} {pictures}" in output.err


def test_a_search_imports_neither_torch_nor_lancedb(index, pictures):
    """In a fresh process, once the copy of the table is there; LanceDB imports pandas."""
    program = (
        "import sys, clip_vit; code = clip_vit.main(sys.argv[1:]); heavy = sorted({'torch', "
        "'transformers', 'datasets', 'lancedb', 'pandas', 'matplotlib'} & sys.modules.keys()); "
        "print(heavy, file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", program, "search", index.name, "red"]
    command += ["--similar", str(pictures / "photo.jpg")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(2):
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
        )
    assert done.stderr.splitlines()[-1] == "[]"
    assert "photo.jpg" in done.stdout
