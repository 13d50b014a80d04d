"""Indexing that several processes share gives the table of one."""

import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from modeling_clip_vit.search.index import PictureIndex
from tests.search.test_dataset import write_parquet
from tests.support.indexes import make_index, rows_of, write_pictures
from tests.support.pictures import draw_picture
from tests.support.processes import TWO_PROCESSES, finish, wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 60)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    return folder


@pytest.fixture(scope="module")
def expected(tmp_path_factory, exported, pictures) -> dict[str, dict]:
    return rows_of(make_index(exported, pictures, tmp_path_factory.mktemp("one") / "i"))


def start(launcher: list[str], *arguments) -> subprocess.Popen:
    command = [sys.executable, *launcher, "-m", "clip_vit", "index", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ray_workers(process: subprocess.Popen) -> list[psutil.Process]:
    """The processes in which Ray embeds for another one."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # a zombie, too
            if "RayWorker" in " ".join(child.cmdline()):
                found.append(child)
    return found


def assert_same(place: Path, expected: dict[str, dict]):
    """An index has these rows, and no shard is left."""
    found = rows_of(PictureIndex.open(place))
    assert found.keys() == expected.keys()
    for name, row in expected.items():
        vector = row["vector"] and pytest.approx(row["vector"], abs=1e-6)
        assert found[name] == row | {"vector": vector}
    assert list((place / "staging").glob("*.arrow")) == []


def test_launched_processes_make_the_table_of_one(tmp_path, exported, pictures, expected):
    launcher = ["-m", "accelerate.commands.launch", *TWO_PROCESSES]
    finish(start(launcher, exported, pictures, tmp_path / "i", "--shard_size", 8))
    assert_same(tmp_path / "i", expected)


def test_ray_makes_the_table_of_one_though_a_worker_is_killed(
    tmp_path, exported, pictures, expected
):
    place = tmp_path / "i"
    make_index(exported, pictures / "a", place)  # the index is there, most pictures are not
    options = ("--ray", "true", "--shard_size", 4)
    process = start([], exported, pictures, place, *options)
    workers: list[psutil.Process] = []

    def find_worker() -> bool:
        workers[:] = ray_workers(process)
        return bool(workers) and any((place / "staging").glob("*.arrow"))

    wait_until(find_worker, "a worker has written a shard", process, interval=0.001)
    workers[0].kill()
    finish(process)
    found = rows_of(PictureIndex.open(place))
    of_all = {row["path"]: row for row in found.values() if row["root"] == str(pictures)}
    assert of_all.keys() == expected.keys()
    for path, row in expected.items():
        assert (of_all[path]["vector"] is None) == (row["vector"] is None)
        if row["vector"] is not None:
            assert of_all[path]["vector"] == pytest.approx(row["vector"], abs=1e-6)


def test_ray_shares_the_files_of_a_dataset(tmp_path, exported):
    for number in range(3):
        write_parquet(tmp_path / f"data/part-{number}.parquet", ["red", "green", "blue"])
    one = make_index(exported, tmp_path / "data", tmp_path / "one", "--columns", "stars")
    options = ("--columns", "stars", "--ray", "true")
    finish(start([], exported, tmp_path / "data", tmp_path / "shared", *options))
    assert_same(tmp_path / "shared", rows_of(one))


def test_what_a_killed_run_left_is_put_in_by_the_next(tmp_path, exported):
    from modeling_clip_vit.search.folder import plan_folder
    from modeling_clip_vit.search.tasks import TaskWorker

    folder, place = tmp_path / "pictures", tmp_path / "i"
    write_pictures(folder, 4)
    index = make_index(exported, folder, place)
    draw_picture("red", 77).save(folder / "new.png")
    (task,) = plan_folder(index, folder, 8).tasks()
    TaskWorker(str(place), str(exported))(task)
    assert len(list((place / "staging").glob("*.arrow"))) == 1
    finish(start([], exported, folder, place))
    assert rows_of(index)["new.png"]["vector"] is not None
    assert list((place / "staging").glob("*.arrow")) == []
