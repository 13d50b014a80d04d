"""An index of pictures with odd names, and the static site of it."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_clip_vit.page.site import SiteOptions, write_site
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.index_command import run_index
from tests.support import REPOSITORY
from tests.support.browsers import Browser, download_axe, serve

#: A file name that would be an element if it were read as HTML.
HOSTILE_NAME = "<img src=x onerror=window.hacked=1>.png"
NUM_PICTURES = 150


@pytest.fixture(scope="session")
def emoji() -> list[dict]:
    """Rows of data/emoji."""
    path = REPOSITORY / "data/emoji/data/validation-00000-of-00001.parquet"
    return pq.read_table(path).slice(0, 420).to_pylist()


@pytest.fixture(scope="session")
def pictures(tmp_path_factory, emoji) -> Path:
    """A folder of picture files, in two folders, one of them with places and a camera."""
    folder = tmp_path_factory.mktemp("pictures")
    for name in ("drawings", "photos"):
        (folder / name).mkdir()
    for number, row in enumerate(emoji[:NUM_PICTURES]):
        (folder / "drawings" / f"{number:03}.webp").write_bytes(row["image"]["bytes"])
    exif = Image.Exif()
    exif[0x0110], exif[0x010F] = "Model 5", "Maker"
    exif.get_ifd(0x8769)[0x9003] = "2024:05:06 07:08:09"
    exif.get_ifd(0x8825).update({1: "N", 2: (48.0, 51.0, 29.0), 3: "E", 4: (2.0, 17.0, 40.0)})
    Image.effect_noise((300, 200), 90).convert("RGB").save(folder / "photos/a.jpg", exif=exif)
    Image.new("RGB", (64, 64), "teal").save(folder / "photos" / HOSTILE_NAME)
    Image.new("RGB", (40, 90), "orange").save(folder / "photos" / "=1+1 & 'q' \"d\".png")
    return folder


@pytest.fixture(scope="session")
def picture_index(tmp_path_factory, exported, pictures) -> PictureIndex:
    """The index of these pictures, by an untrained model."""
    path = tmp_path_factory.mktemp("index") / "pictures.index"
    assert run_index([str(exported), str(pictures), str(path), "--threads", "1"]) == 0
    return PictureIndex.open(path)


@pytest.fixture(scope="session")
def site(tmp_path_factory, picture_index) -> Path:
    """The static site of the index."""
    target = tmp_path_factory.mktemp("site") / "site"
    options = SiteOptions(title="<b>Mine</b>", examples=["a red square", "红方块"])
    write_site(picture_index, target, options)
    return target


@pytest.fixture(scope="session")
def address(site) -> str:
    """The address of the site on this machine."""
    with serve(site) as address:
        yield address


@pytest.fixture(scope="session")
def shared_browser() -> Browser:
    """A window of a desktop."""
    with Browser() as browser:
        yield browser


@pytest.fixture
def browser(shared_browser, address) -> Browser:
    """The page in a window of a desktop, as a visitor first sees it."""
    shared_browser.open(address)
    return shared_browser


@pytest.fixture(scope="session")
def axe(tmp_path_factory) -> str:
    """The source of axe-core."""
    return download_axe(tmp_path_factory.mktemp("axe"))
