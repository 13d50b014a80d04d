"""What an index holds of a folder of pictures, and whom it opens for."""

import json
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.decoding import decode_image
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.settings import PictureIndexError
from tests.support.indexes import make_index, rows_of, write_photograph, write_pictures


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder)
    tags = {"orientation": 6, "date": "2024:02:29 12:30:00", "maker": "Canon", "model": "Canon R5"}
    write_photograph(folder / "photo.JPG", latitude=-33.85, longitude=151.2, **tags)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno picture")
    (folder / "notes.txt").write_text("no picture either")
    (folder / ".hidden.png").write_bytes((folder / "photo.JPG").read_bytes())
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory, exported, pictures) -> PictureIndex:
    return make_index(exported, pictures, tmp_path_factory.mktemp("index") / "i")


def test_every_picture_is_in_the_table_once(index, pictures):
    found = {p.relative_to(pictures).as_posix() for p in pictures.rglob("[!.]*") if p.is_file()}
    assert rows_of(index).keys() == found - {"notes.txt"}


def test_a_vector_is_the_embedding_of_its_picture(index, exported, pictures):
    encoder = load_encoder(str(exported))
    for path, row in rows_of(index).items():
        if row["vector"] is not None and path != "photo.JPG":
            expected = encoder.encode_image([decode_image(str(pictures / path))])[0].numpy()
            assert np.dot(row["vector"], expected) > 0.9999, path


def test_what_cannot_be_read_is_there_with_its_reason(index):
    row = rows_of(index)["broken.png"]
    assert row["vector"] is None
    assert "Error" in row["error"]


def test_a_photograph_says_when_with_what_and_where_it_was_taken(index):
    row = rows_of(index)["photo.JPG"]
    assert row["taken"] == datetime(2024, 2, 29, 12, 30)
    assert row["camera"] == "Canon R5"
    assert (row["latitude"], row["longitude"]) == pytest.approx((-33.85, 151.2), abs=1e-4)
    assert (row["width"], row["height"]) == (64, 128)


def test_texts_are_embedded_as_by_the_checkpoint(index, checkpoint):
    texts = ["a red square", "蓝色方块", "", "<eos> <pad>", "a " * 100, "ＡＢＣ ﬁ"]
    ours = index.text_encoder()(texts)
    expected = load_encoder(str(checkpoint)).encode_text(texts).numpy()
    np.testing.assert_allclose(ours, expected, atol=2e-5)


SHAPES = [(32, 32), (100, 40), (40, 101), (7, 300), (33, 31), (500, 333)]


@pytest.mark.parametrize("size", SHAPES)
def test_pictures_are_embedded_as_by_the_checkpoint(index, checkpoint, size):
    noise = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    image = Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC)
    ours = index.image_encoder()([image])[0]
    expected = load_encoder(str(checkpoint)).encode_image([image])[0].numpy()
    assert np.dot(ours, expected) > 0.9999


def test_the_picture_of_a_row_can_be_opened(index, pictures):
    row = rows_of(index)["photo.JPG"]
    assert index.picture_bytes(row) == (pictures / "photo.JPG").read_bytes()
    assert index.open_picture(row).size == (64, 128)


def test_no_picture_outside_its_root_is_opened(index, tmp_path):
    row = rows_of(index)["photo.JPG"] | {"path": f"../{tmp_path.name}/secret"}
    with pytest.raises(PictureIndexError, match="lies outside"):
        index.picture_bytes(row)


def test_settings_are_kept(index, exported, pictures):
    settings = PictureIndex.open(index.name).settings
    manifest = json.loads((exported / "export.json").read_text())
    assert settings.model.embedding_size == manifest["embedding_size"] == 16
    assert settings.model.logit_scale == manifest["logit_scale"]
    assert [source.path for source in settings.sources] == [str(pictures.resolve())]


def test_an_index_is_opened_without_torch(index):
    code = f"""
import sys, clip_vit
clip_vit.prepare_package()
from modeling_clip_vit.search.index import PictureIndex
index = PictureIndex.open({index.name!r})
assert index.text_encoder()(["red"]).shape == (1, 16)
assert index.table.count_rows() == 10
print([name for name in ("torch", "transformers", "datasets") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_newer_index_is_refused(index, tmp_path):
    copy = tmp_path / "newer"
    shutil.copytree(index.name, copy)
    settings = json.loads((copy / "index.json").read_text())
    (copy / "index.json").write_text(json.dumps(settings | {"version": 99}))
    with pytest.raises(PictureIndexError, match="has version 99, and this clip-vit reads up to 1"):
        PictureIndex.open(copy)


@pytest.mark.parametrize("content", [None, "no JSON", "[]", '{"version": 1}'])
def test_what_is_no_index_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "index.json").write_text(content)
    with pytest.raises(PictureIndexError, match=r"there is no index in|is no index"):
        PictureIndex.open(tmp_path)


def test_another_model_is_refused_by_both_names(index, exported, pictures, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(exported, other)
    manifest = json.loads((other / "export.json").read_text())
    manifest["files"]["image.onnx"]["sha256"] = "0" * 64
    (other / "export.json").write_text(json.dumps(manifest))
    assert main(["index", str(other), str(pictures), index.name]) == 1
    message = capsys.readouterr().err
    assert str(exported) in message
    assert str(other) in message


def test_a_folder_with_other_files_does_not_become_an_index(exported, pictures, tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("mine")
    assert main(["index", str(exported), str(pictures), str(tmp_path)]) == 1
    assert "a folder with other files (letter.txt)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_an_empty_folder_is_refused(exported, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["index", str(exported), str(tmp_path / "empty"), str(tmp_path / "i")]) == 1
    assert "holds no picture" in capsys.readouterr().err


def test_torch_makes_the_vectors_that_onnx_makes(checkpoint, pictures, tmp_path):
    by_onnx = make_index(checkpoint, pictures, tmp_path / "onnx", "--runtime", "onnxruntime")
    by_torch = make_index(checkpoint, pictures, tmp_path / "torch", "--runtime", "torch")
    expected = rows_of(by_onnx)
    for path, row in rows_of(by_torch).items():
        if row["vector"] is not None:
            np.testing.assert_allclose(row["vector"], expected[path]["vector"], atol=1e-5)


def test_an_export_does_not_run_in_torch(index, exported, pictures, capsys):
    assert main(["index", str(exported), str(pictures), index.name, "--runtime", "torch"]) == 1
    assert "--runtime torch needs a checkpoint" in capsys.readouterr().err
