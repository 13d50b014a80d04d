"""Formats of pictures and videos, each as a file of a folder that is indexed."""

from pathlib import Path

import av
import numpy as np
import pillow_heif
import pytest
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.search.formats import can_be_tried_again
from modeling_clip_vit.search.index import PictureIndex
from tests.support.indexes import make_index, rows_of
from tests.support.raw import write_dng

#: Colours of a video, each for a second.
SECONDS = ("red", "lime", "blue")


def write_video(path: Path, colors: tuple[str, ...] = SECONDS):
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for color in colors:
            for _ in range(10):
                frame = av.VideoFrame.from_image(Image.new("RGB", (64, 48), color))
                container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("formats")
    red = Image.new("RGB", (64, 64), (250, 10, 10))
    for ending in ("avif", "bmp", "gif", "jp2", "jpg", "png", "ppm", "tga", "tiff", "webp"):
        red.save(folder / f"red.{ending}")
    pillow_heif.from_pillow(red).save(folder / "red.heic")
    mosaic = np.zeros((64, 64), np.uint16)
    mosaic[0::2, 0::2] = 60000
    write_dng(folder / "sensor.dng", mosaic)
    write_video(folder / "colors.mp4")
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory, exported, pictures) -> PictureIndex:
    place = tmp_path_factory.mktemp("index") / "i"
    return make_index(exported, pictures, place, "--video_seconds", "1")


def test_every_format_is_read(index):
    assert {path: row["error"] for path, row in rows_of(index).items() if row["error"]} == {}
    assert len(rows_of(index)) == 12 + len(SECONDS)


@pytest.mark.parametrize("name", ["red.avif", "red.jp2", "red.heic", "red.ppm", "sensor.dng"])
def test_the_picture_is_what_it_shows(index, name):
    image = index.open_picture(rows_of(index)[name])
    red, green, blue = np.asarray(image).reshape(-1, 3).mean(0)
    assert red > 200
    assert max(green, blue) < 60


def test_a_video_is_a_row_for_each_frame_with_its_time(index):
    rows = [row for row in rows_of(index).values() if row["path"] == "colors.mp4"]
    assert [row["id"] for row in rows] == [f"colors.mp4#t={time}" for time in range(3)]
    assert [row["time"] for row in rows] == [0, 1, 2]
    assert rows[2]["name"] == "colors.mp4 0:00:02"


def test_the_picture_of_a_frame_is_the_one_of_its_time(index):
    row = rows_of(index)["colors.mp4#t=2"]
    red, green, blue = np.asarray(index.open_picture(row)).reshape(-1, 3).mean(0)
    assert blue > 200
    assert max(red, green) < 60


def test_a_frame_has_the_vector_of_its_picture(index):
    row = rows_of(index)["colors.mp4#t=1"]
    expected = index.image_encoder()([index.open_picture(row)])[0]
    assert np.dot(row["vector"], expected) > 0.999


def test_a_video_that_was_cut_loses_frames(index, exported, pictures, tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    write_video(folder / "video.mp4")
    place = str(tmp_path / "i")
    make_index(exported, folder, place, "--video_seconds", "0.5")
    assert len(rows_of(PictureIndex.open(place))) == 6
    write_video(folder / "video.mp4", SECONDS[:2])
    assert main(["index", str(exported), str(folder), place]) == 0
    assert len(rows_of(PictureIndex.open(place))) == 4


def test_frames_at_other_times_than_at_first_are_refused(index, exported, pictures, capsys):
    options = ("--video_seconds", "2")
    assert main(["index", str(exported), str(pictures), index.name, *options]) == 1
    assert "was indexed with --video_seconds 1.0: make a new index" in capsys.readouterr().err


def test_without_the_option_a_video_is_no_picture(tmp_path, exported):
    write_video(tmp_path / "video.mp4")
    assert main(["index", str(exported), str(tmp_path), str(tmp_path / "i")]) == 1


def test_what_lacked_a_package_is_tried_again_when_it_is_there():
    sentence = "a HEIC picture needs {}, which is not installed: pip install 'clip-vit[formats]'"
    assert can_be_tried_again(sentence.format("pillow_heif"))
    assert not can_be_tried_again("UnidentifiedImageError: cannot identify image file")
