"""Kills, a full disk, and folders that change while they are watched."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.index_command import watch
from tests.support import REPOSITORY
from tests.support.indexes import make_index, rows_of, write_pictures
from tests.support.pictures import COLORS, draw_picture
from tests.support.processes import fail, finish, kill, wait_until

pytestmark = pytest.mark.slow

#: How often an index is killed; more by `CLIP_VIT_KILLS=20 pytest tests/search/test_faults.py`.
KILLS = int(os.environ.get("CLIP_VIT_KILLS", "3"))


def start_index(*arguments, **options) -> subprocess.Popen:
    command = [sys.executable, "-m", "clip_vit", "index", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def change_some(folder: Path, rng: random.Random):
    """New, changed, moved and deleted pictures."""
    files = sorted(folder.rglob("*.png"))
    rng.shuffle(files)
    for file in files[:10]:
        draw_picture(rng.choice(list(COLORS)), rng.randrange(10**6)).save(file)
    for file in files[10:20]:
        shutil.move(file, folder / f"moved {rng.randrange(10**9)}.png")
    for file in files[20:25]:
        file.unlink()
    for _ in range(25):
        color, seed = rng.choice(list(COLORS)), rng.randrange(10**6)
        draw_picture(color, seed).save(folder / f"new {rng.randrange(10**9)}.png")


def versions(place: Path) -> int:
    """How often the table has been written."""
    return len(list((place / "pictures.lance/_versions").glob("*.manifest")))


def test_kills_lose_nothing_and_repeat_nothing(tmp_path, exported):
    pictures, place = tmp_path / "pictures", tmp_path / "index"
    write_pictures(pictures, 40)
    make_index(exported, pictures, place)
    rng = random.Random(0)
    for _ in range(KILLS):
        change_some(pictures, rng)
        before, commits = versions(place), rng.randint(1, 8)
        process = start_index(exported, pictures, place, "--shard_size", 8)
        reached = before + commits
        wait_until(
            lambda reached=reached, process=process: (
                versions(place) >= reached or process.poll() is not None
            ),
            f"{commits} commits",
            interval=0.0005,
        )
        kill(process)
        rows_of(PictureIndex.open(place))  # opens, and has no id twice
    finish(start_index(exported, pictures, place))
    index = PictureIndex.open(place)
    rows = rows_of(index)
    assert rows.keys() == {
        file.relative_to(pictures).as_posix() for file in pictures.rglob("*.png")
    }
    encode = index.image_encoder()
    for row in rows.values():
        expected = encode([index.open_picture(row)])[0]
        assert np.dot(row["vector"], expected) > 0.9999, row["id"]


def test_kills_while_a_vector_index_is_built_leave_the_table_whole(tmp_path, exported):
    pictures, place = tmp_path / "pictures", tmp_path / "index"
    write_pictures(pictures, 4)
    make_index(exported, pictures, place)
    rng = random.Random(0)
    for _ in range(KILLS):
        before, commits = versions(place), rng.randint(8, 24)
        program = REPOSITORY / "tests/support/programs/build_vector_index.py"
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        process = subprocess.Popen(
            [sys.executable, program, place], stderr=subprocess.PIPE, text=True, env=environment
        )
        wait_until(
            lambda reached=before + commits: versions(place) >= reached,
            f"{commits} commits",
            process,
            interval=0.0005,
        )
        kill(process)
        index = PictureIndex.open(place)
        rows = rows_of(index)
        vector = rows["a/001 green.png"]["vector"]
        found = index.table.search(vector, vector_column_name="vector").limit(1).to_list()
        assert found[0]["id"] in rows
    assert "IvfRq" in {kind.index_type for kind in index.table.list_indices()}
    finish(start_index(exported, pictures, place))
    assert rows_of(index)["a/001 green.png"]["vector"] == vector


def test_a_full_disk_is_one_sentence_and_keeps_what_was_there(tmp_path, exported):
    pictures, place = tmp_path / "pictures", tmp_path / "index"
    write_pictures(pictures, 4)
    make_index(exported, pictures, place)
    write_pictures(pictures, 200)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    message = fail(start_index(exported, pictures, place, preexec_fn=limit))
    assert "Traceback" not in message
    assert "make room" in message
    assert len(rows_of(PictureIndex.open(place))) == 4
    finish(start_index(exported, pictures, place))
    assert len(rows_of(PictureIndex.open(place))) == 200


def test_a_change_while_the_index_is_made_is_seen_afterwards(tmp_path):
    changes = watch(str(tmp_path))
    draw_picture("blue", 50).save(tmp_path / "new.png")
    assert any(next(changes) for _ in range(20))


def test_a_watched_folder_is_followed(tmp_path, exported):
    pictures, place = tmp_path / "pictures", tmp_path / "index"
    write_pictures(pictures, 4)
    process = start_index(exported, pictures, place, "--watch", "true")
    try:
        wait_until(lambda: "watching" in process.stderr.readline(), "it watches", process)
        shutil.move(pictures / "b/000 red.png", pictures / "moved.png")
        (pictures / "a/001 green.png").unlink()
        draw_picture("blue", 50).save(pictures / "new.png")
        expected = {"b/002 blue.png", "a/003 yellow.png", "moved.png", "new.png"}
        wait_until(
            lambda: rows_of(PictureIndex.open(place)).keys() == expected, "the change", process
        )
        process.send_signal(signal.SIGINT)
        assert process.wait(60) in (0, 130)
    finally:
        kill(process)
