"""An index whose model takes pictures in their own aspect ratio."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.decoding import decode_image
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.torch_encoder import TorchPixelEncoder
from tests.support.indexes import make_index, rows_of, write_pictures

#: Colours at the left edge of wide grey pictures, which are alike elsewhere.
EDGES = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}


def draw_edge(color: str, scale: int = 1) -> Image.Image:
    """A wide picture that only its left edge tells from others."""
    image = Image.new("RGB", (240 * scale, 60 * scale), (128, 128, 128))
    image.paste(EDGES[color], (0, 0, 40 * scale, 60 * scale))
    return image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("pictures")
    write_pictures(folder, 4)
    for color in EDGES:
        draw_edge(color).save(folder / f"{color}.png")
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory, native_export, pictures) -> PictureIndex:
    return make_index(native_export, pictures, tmp_path_factory.mktemp("index") / "i")


def test_vectors_are_the_embeddings_of_the_checkpoint(index, native_checkpoint, pictures):
    encoder = load_encoder(str(native_checkpoint))
    for path, row in rows_of(index).items():
        expected = encoder.encode_image([decode_image(str(pictures / path))])[0].numpy()
        assert np.dot(row["vector"], expected) > 0.9999, path


@pytest.mark.parametrize("color", EDGES)
def test_what_is_at_the_edge_of_a_wide_picture_is_found(index, tmp_path, capsys, color):
    query = tmp_path / "query.png"
    draw_edge(color, scale=2).save(query)
    assert main(["search", index.name, "--similar", str(query), "--top_k", "1"]) == 0
    assert f"{color}.png" in capsys.readouterr().out


def test_squares_from_the_middle_do_not_tell_them_apart(exported, pictures, tmp_path):
    rows = rows_of(make_index(exported, pictures, tmp_path / "squares"))
    first, *others = (rows[f"{color}.png"]["vector"] for color in EDGES)
    for vector in others:
        np.testing.assert_allclose(vector, first, atol=1e-6)


def test_torch_embeds_the_same(index, native_checkpoint):
    own = index.image_encoder()
    pixels = [own.preparation(draw_edge(color)) for color in EDGES]
    pixels.append(own.preparation(Image.new("RGB", (10, 70), (1, 2, 3))))
    embeds = TorchPixelEncoder(native_checkpoint, own.preparation).embed_pixels(pixels)
    np.testing.assert_allclose(own.embed_pixels(pixels), embeds, atol=1e-5)


@pytest.mark.slow
def test_an_index_of_the_checkpoint_has_the_vectors_of_its_export(
    index, native_checkpoint, pictures, tmp_path
):
    other = rows_of(make_index(native_checkpoint, pictures, tmp_path / "i"))
    for path, row in rows_of(index).items():
        np.testing.assert_allclose(other[path]["vector"], row["vector"], atol=1e-5)


def test_the_page_rejects_it(index, tmp_path, capsys):
    assert main(["demo", index.name, "--target", str(tmp_path / "page")]) == 1
    assert "the page makes squares of pictures" in capsys.readouterr().err
    assert not (tmp_path / "page").exists()
