"""The files of the static site."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from modeling_clip_vit.page.command import run_demo
from modeling_clip_vit.page.site import SiteOptions, write_site
from modeling_clip_vit.page.thumbnails import make_tile
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.utils.errors import UserError

from .conftest import HOSTILE_NAME

pytestmark = pytest.mark.slow


def read(site, name):
    return json.loads((site / "data" / name).read_text(encoding="utf-8"))


def test_vectors_are_those_of_the_index_in_the_order_of_the_pictures(site, picture_index):
    pictures, size = read(site, "pictures.json"), read(site, "site.json")["embedding_size"]
    vectors = np.fromfile(site / "data/vectors.bin", np.float32).reshape(-1, size)
    rows = picture_index.table.to_arrow().sort_by("id").to_pylist()
    assert [row["name"] for row in rows] == pictures["name"]
    np.testing.assert_array_equal(vectors, np.array([row["vector"] for row in rows]))


def test_float16_halves_the_file_and_keeps_the_values(tmp_path, picture_index, site):
    target = tmp_path / "site"
    write_site(picture_index, target, SiteOptions(vector_type="float16"))
    halves = np.fromfile(target / "data/vectors.bin", np.float16)
    np.testing.assert_allclose(
        halves, np.fromfile(site / "data/vectors.bin", np.float32), atol=1e-3
    )


def test_thumbnails_have_no_metadata(site):
    for path in (site / "data/thumbnails").rglob("*.webp"):
        with Image.open(path) as thumbnail:
            assert not thumbnail.getexif()
            assert max(thumbnail.size) <= 360


def test_where_a_picture_was_taken_is_in_no_file_of_the_site(site):
    names = [field["name"] for field in read(site, "site.json")["fields"]]
    assert "folder" in names
    assert not {"latitude", "longitude"} & {*names, *read(site, "pictures.json")["fields"]}
    for path in (site / "data").glob("*.json"):
        assert "48.85" not in path.read_text(encoding="utf-8")


def test_a_path_outside_the_collection_is_in_no_file_of_the_site(site, pictures):
    for path in (site / "data").glob("*.json"):
        assert str(pictures) not in path.read_text(encoding="utf-8")


def test_a_picture_that_has_vanished_is_left_out(tmp_path, picture_index, pictures, site):
    moved = pictures / "photos" / "a.jpg"
    content = moved.read_bytes()
    moved.unlink()
    try:
        write_site(picture_index, tmp_path / "site", SiteOptions())
    finally:
        moved.write_bytes(content)
    names = read(tmp_path / "site", "pictures.json")["name"]
    assert set(read(site, "pictures.json")["name"]) - set(names) == {"a.jpg"}
    vectors = np.fromfile(tmp_path / "site/data/vectors.bin", np.float32)
    assert len(vectors) == len(names) * read(site, "site.json")["embedding_size"]


def test_what_a_visitor_loads_first_is_counted(site):
    description = read(site, "site.json")
    files = [site / "model" / name for name in description["model"]["files"]["text"]]
    files += [site / "data/vectors.bin", *site.glob("vendor/*/*.wasm.gz")]
    assert description["load_bytes"] == sum(file.stat().st_size for file in files)


def test_a_folder_with_files_is_not_written_to(tmp_path, picture_index):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="exists and is not an empty folder"):
        run_demo([picture_index.name, "--target", str(tmp_path)])


def describe_again(index, target, title="again"):
    """Write a page where there may be one, and read what it says of itself."""
    assert run_demo([index.name, "--target", str(target), "--title", title]) == 0
    return read(target, "site.json")


def test_a_page_replaces_the_page_before(tmp_path, picture_index, site):
    target = tmp_path / "site"
    shutil.copytree(site, target)
    (target / "data" / "thumbnails" / "7").mkdir()  # of a larger collection
    assert describe_again(picture_index, target)["title"] == "again"
    assert not (target / "data" / "thumbnails" / "7").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["site"]


@pytest.mark.parametrize("name", ["CNAME", "data/mine.csv"])
def test_a_page_with_a_file_of_the_users_is_not_replaced(name, tmp_path, picture_index, site):
    target = tmp_path / "site"
    shutil.copytree(site, target)
    (target / name).write_text("mine")
    with pytest.raises(UserError, match=f"has '{name}', which is no part of a page"):
        describe_again(picture_index, target)
    assert (target / name).read_text() == "mine"


def test_the_page_before_stays_if_the_new_one_cannot_be_written(tmp_path, picture_index, site):
    target = tmp_path / "site"
    shutil.copytree(site, target)
    with pytest.raises(UserError, match="--columns has 'nothing'"):
        write_site(picture_index, target, SiteOptions(columns=["nothing"]))
    assert read(target, "site.json") == read(site, "site.json")


def test_transparent_parts_stay_transparent(tmp_path, picture_index, pictures):
    changed = pictures / "photos" / HOSTILE_NAME
    content = changed.read_bytes()
    picture = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    picture.paste("white", (16, 16, 48, 48))
    picture.save(changed)
    try:
        write_site(picture_index, tmp_path / "site", SiteOptions())
    finally:
        changed.write_bytes(content)
    row = read(tmp_path / "site", "pictures.json")["name"].index(HOSTILE_NAME)
    with Image.open(tmp_path / "site" / "data" / "thumbnails" / "0" / f"{row}.webp") as thumbnail:
        alpha = thumbnail.getchannel("A")
    assert (alpha.getpixel((4, 4)), alpha.getpixel((32, 32))) == (0, 255)


def test_a_white_drawing_is_seen_on_the_map():
    picture = Image.new("RGBA", (96, 96), (255, 255, 255, 0))
    picture.paste("white", (24, 24, 72, 72))
    tile = make_tile(picture)
    assert tile.getpixel((24, 24)) == (255, 255, 255) != tile.getpixel((4, 4))


def test_nothing_is_left_of_a_site_that_cannot_be_written(tmp_path, picture_index):
    options = SiteOptions(columns=["nothing"])
    with pytest.raises(UserError, match="--columns has 'nothing'"):
        write_site(picture_index, tmp_path / "site", options)
    assert not list(tmp_path.iterdir())


def test_an_index_that_is_none_is_refused(tmp_path):
    with pytest.raises(UserError, match="there is no index in"):
        run_demo([str(tmp_path / "nothing"), "--target", str(tmp_path / "site")])


def test_an_index_without_pictures_is_refused(tmp_path, picture_index):
    folder = tmp_path / "index"
    shutil.copytree(picture_index.name, folder)
    empty = PictureIndex.open(folder)
    empty.table.delete("true")
    with pytest.raises(UserError, match="has no picture to show"):
        write_site(empty, tmp_path / "site", SiteOptions())
