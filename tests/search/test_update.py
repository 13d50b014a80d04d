"""An index follows its folder: what is new, changed, moved, deleted or cannot be read."""

import os
import shutil
import time
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.search.index import PictureIndex
from tests.support.indexes import make_index, rows_of, write_pictures
from tests.support.pictures import draw_picture


@pytest.fixture
def pictures(tmp_path) -> Path:
    write_pictures(tmp_path / "pictures")
    return tmp_path / "pictures"


@pytest.fixture
def index(tmp_path, exported, pictures) -> PictureIndex:
    return make_index(exported, pictures, tmp_path / "index")


@pytest.fixture
def run_again(exported, pictures, index, capsys):
    """Run the command again; returns what it printed and the rows."""

    def run(*options: str) -> tuple[str, dict[str, dict]]:
        capsys.readouterr()
        assert main(["index", str(exported), str(pictures), index.name, *options]) == 0
        return capsys.readouterr().out, rows_of(index)

    return run


def test_a_second_run_does_nothing(index, run_again):
    version = index.table.version
    printed, _ = run_again()
    assert "nothing new, 8 as before" in printed
    assert PictureIndex.open(index.name).table.version == version


def test_a_new_picture_is_added(pictures, run_again):
    draw_picture("red", 99).save(pictures / "new 'picture'.png")
    printed, rows = run_again()
    assert "1 new, 8 as before" in printed
    assert rows["new 'picture'.png"]["vector"] is not None


def test_a_changed_picture_is_embedded_anew(pictures, index, run_again):
    before = rows_of(index)["b/000 red.png"]
    draw_picture("blue", 5).save(pictures / "b/000 red.png")
    printed, rows = run_again()
    assert "1 changed, 7 as before" in printed
    assert rows["b/000 red.png"]["vector"] != before["vector"]
    assert rows["b/000 red.png"]["pixel_hash"] != before["pixel_hash"]


def test_a_change_of_size_alone_is_seen(pictures, index, run_again):
    file = pictures / "b/000 red.png"
    times = file.stat()
    file.write_bytes(file.read_bytes() + b"more")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "1 changed" in run_again()[0]


def test_a_touched_picture_keeps_its_vector(pictures, index, run_again):
    before = rows_of(index)["b/000 red.png"]
    os.utime(pictures / "b/000 red.png", ns=(1, 10**18))
    _, rows = run_again()
    after = rows["b/000 red.png"]
    assert after["modified"] != before["modified"]
    assert {**after, "modified": None} == {**before, "modified": None}
    assert "nothing new" in run_again()[0]


def test_a_moved_picture_keeps_its_vector(pictures, index, run_again):
    before = rows_of(index)["b/000 red.png"]
    # The vector is marked, so that computing it again would be seen.
    index.table.update(where="id = 'b/000 red.png'", values={"vector": [2.0] * 16})
    (pictures / "c").mkdir()
    shutil.move(pictures / "b/000 red.png", pictures / "c/red.png")
    printed, rows = run_again()
    assert "1 moved, 7 as before" in printed
    assert "b/000 red.png" not in rows
    assert rows["c/red.png"]["vector"] == [2.0] * 16
    assert rows["c/red.png"]["perceptual_hash"] == before["perceptual_hash"]


def test_a_copy_of_a_moved_picture_is_new_and_hides_no_deletion(pictures, index, run_again):
    shutil.move(pictures / "b", pictures / "renamed")
    first, second = sorted((pictures / "renamed").glob("*.png"))[:2]
    shutil.copy(first, pictures / "renamed" / "copy.png")
    second.unlink()
    printed, rows = run_again()
    assert "1 new, 3 moved, 1 deleted, 4 as before" in printed
    assert len(rows) == 8


def test_a_renamed_folder_embeds_nothing(pictures, index, run_again):
    shutil.move(pictures / "b", pictures / "renamed")
    printed, rows = run_again()
    assert "4 moved, 4 as before" in printed
    assert len(rows) == 8


def test_a_deleted_picture_is_taken_out(pictures, run_again):
    (pictures / "b/000 red.png").unlink()
    printed, rows = run_again()
    assert "1 deleted, 7 as before" in printed
    assert len(rows) == 7


def test_what_could_not_be_read_is_tried_again_when_it_changes(pictures, run_again):
    (pictures / "half.png").write_bytes((pictures / "b/000 red.png").read_bytes()[:80])
    printed, rows = run_again()
    assert "1 unreadable" in printed
    assert rows["half.png"]["error"] is not None
    assert "nothing new" in run_again()[0]
    draw_picture("green", 3).save(pictures / "half.png")
    _, rows = run_again()
    assert rows["half.png"]["error"] is None
    assert rows["half.png"]["vector"] is not None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--precision", "int8"), "was made in fp32"),
        (
            ("--columns", "stars"),
            "was indexed without --columns: make a new index for other columns",
        ),
    ],
)
def test_another_choice_than_at_first_is_refused(
    exported, pictures, index, capsys, options, message
):
    assert main(["index", str(exported), str(pictures), index.name, *options]) == 1
    assert message in capsys.readouterr().err
    assert len(rows_of(index)) == 8


def test_a_closed_folder_keeps_its_rows(pictures, run_again, caplog):
    if os.geteuid() == 0:
        pytest.skip("root reads every folder")
    (pictures / "b").chmod(0)
    try:
        _, rows = run_again()
    finally:
        (pictures / "b").chmod(0o755)
    assert len(rows) == 8
    assert "a folder that cannot be read" in caplog.text


def test_a_folder_that_is_not_mounted_takes_nothing_out(exported, pictures, index, capsys):
    shutil.rmtree(pictures)
    assert main(["index", str(exported), str(pictures), index.name]) == 1
    pictures.mkdir()
    assert main(["index", str(exported), str(pictures), index.name]) == 1
    assert "--allow_empty takes them out" in capsys.readouterr().err
    assert len(rows_of(index)) == 8
    assert main(["index", str(exported), str(pictures), index.name, "--allow_empty", "true"]) == 0
    assert rows_of(index) == {}


def test_a_second_folder_has_ids_of_its_own(exported, tmp_path, index, run_again):
    draw_picture("red", 70).save(tmp_path / "pictures/b/same.png")
    write_pictures(tmp_path / "more", 2)
    assert main(["index", str(exported), str(tmp_path / "more"), index.name]) == 0
    rows = rows_of(index)
    assert len(rows) == 10
    second = f"{tmp_path.resolve()}/more/b/000 red.png"
    assert rows[second]["path"] == "b/000 red.png"
    assert index.open_picture(rows[second]).size == (32, 32)
    _, rows = run_again()
    assert len(rows) == 11


def test_one_process_writes_at_a_time(exported, pictures, index, capsys):
    with FileLock(Path(index.name) / ".lock"):
        assert main(["index", str(exported), str(pictures), index.name]) == 1
    assert "another process is writing the index" in capsys.readouterr().err


def test_a_link_out_of_the_folder_is_left_out(tmp_path, pictures, run_again, caplog):
    draw_picture("red", 0).save(tmp_path / "outside.png")
    (pictures / "link.png").symlink_to(tmp_path / "outside.png")
    (pictures / "inner.png").symlink_to(pictures / "b/000 red.png")
    _, rows = run_again()
    assert "link.png" not in rows
    assert "inner.png" in rows
    assert "a link out of the folder" in caplog.text


def test_a_link_to_a_dataset_outside_does_not_make_the_folder_one(
    tmp_path, pictures, exported, color_dataset
):
    shutil.copytree(color_dataset, tmp_path / "dataset")
    (pictures / "loop").symlink_to("../..")
    (pictures / "outside").symlink_to(tmp_path / "dataset")
    index = make_index(exported, pictures, tmp_path / "i")
    assert [source.kind for source in index.settings.sources] == ["files"]
    assert len(rows_of(index)) == 8


def test_what_cannot_be_read_is_named_with_its_reason(pictures, run_again):
    for number in range(12):
        (pictures / f"broken{number:02}.png").write_bytes(b"no picture %d" % number)
    printed, rows = run_again()
    first, *lines = printed.splitlines()
    assert first.endswith("8 pictures and 12 that cannot be read")
    assert lines[0] == f"  broken00.png: {rows['broken00.png']['error']}"
    assert len(lines) == 11
    assert lines[10].startswith("  and 2 more: clip-vit info ")


def test_a_second_source_is_added_with_a_word_on_the_first(
    exported, tmp_path, pictures, index, capsys
):
    write_pictures(tmp_path / "more", 2)
    capsys.readouterr()
    for _ in range(2):
        assert main(["index", str(exported), str(tmp_path / "more"), index.name]) == 0
    said = f"{index.name} also holds 8 pictures of {pictures.resolve()}\n"
    assert capsys.readouterr().err.count(said) == 1


def test_a_raw_beside_its_jpeg_is_one_picture(pictures, run_again):
    Image.new("RGB", (64, 64), "red").save(pictures / "DSC1.JPG")
    (pictures / "DSC1.ARW").write_bytes(b"sensor")
    (pictures / "DSC2.ARW").write_bytes(b"sensor")
    _, rows = run_again()
    assert {"DSC1.JPG", "DSC2.ARW"} <= rows.keys()
    assert "DSC1.ARW" not in rows


def test_an_animation_gives_its_first_frame(pictures, run_again):
    frames = [draw_picture(color, 1) for color in ("red", "blue")]
    frames[0].save(pictures / "moving.gif", save_all=True, append_images=frames[1:])
    frames[0].save(pictures / "still.gif")
    _, rows = run_again()
    assert rows["moving.gif"]["vector"] == rows["still.gif"]["vector"]


def test_times_of_files_have_microseconds(pictures, index):
    file = pictures / "b/000 red.png"
    assert rows_of(index)["b/000 red.png"]["modified"].timestamp() == pytest.approx(
        file.stat().st_mtime, abs=2e-6
    )
    assert time.time() - file.stat().st_mtime < 3600
