"""Write the static site: the page, the model, vectors and thumbnails as files.

Shape legend: `N` pictures, `P` projection.
"""

import json
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from ..search.cut import DEFAULT_MARGIN, Cut
from ..search.engine import PictureSearch
from ..search.index import PictureIndex
from ..utils.ahead import map_ahead
from ..utils.errors import UserError
from ..utils.folders import check_new, replaced_folder
from .fields import choose_columns, describe_columns
from .files import WEB_FOLDER, copy_page
from .model_files import copy_model, describe_model, describe_preparation, pack_background
from .options import PageOptions
from .placement import place_on_map, spread_evenly
from .thumbnails import TILES, describe_sheets, encode, make_sheets, make_thumbnail, make_tile

logger = logging.getLogger(__name__)

#: Pictures on the map; a phone must hold its sheets.
MOST_ON_MAP = 4 * TILES
#: Thumbnails in a folder: hosts of static files limit them. backend.js has the same number.
PER_FOLDER = 1000
THREADS = 4
#: What a site consists of besides the page's own files; and what is in its folder `data`.
SITE_NAMES = {"README.md", "data", "model", "vendor"}
DATA_NAMES = {"background.bin", "map", "pictures.json", "site.json", "thumbnails", "vectors.bin"}


@dataclass
class SiteOptions(PageOptions):
    """What a static site shows.

    Args:
        vector_type: number format of the vectors; float16 halves their size, and may swap pictures
            of nearly the same score.
    """

    vector_type: Literal["float32", "float16"] = "float32"


def write_site(index: PictureIndex, target: Path, options: SiteOptions) -> dict[str, Any]:
    """Write a static site for an index, all or nothing.

    Args:
        index: the pictures, whose files must still be there.
        target: a folder that does not exist yet, is empty, or holds an older site, which stays
            until the new one is complete.
        options: what it shows.

    Returns:
        The content of `data/site.json`.

    Raises:
        UserError: the target holds anything else, there is no picture, or an option is not allowed.
    """
    check_target(target)
    columns = choose_columns(index.columns, options.columns)
    model, preparation = describe_model(index), describe_preparation(index)
    with replaced_folder(target.resolve()) as folder:  # a link stays one
        copy_page(folder)
        copy_model(index, folder / "model")
        data = folder / "data"
        data.mkdir()
        table, tiles = write_thumbnails(index, read_pictures(index), data, options.thumbnail_size)
        vectors_NP = vectors_of(table)
        vectors_NP.astype(options.vector_type).tofile(data / "vectors.bin")
        background_TP = PictureSearch(index).background
        (data / "background.bin").write_bytes(pack_background(background_TP))
        fields, values = describe_columns(table, columns)
        on_map = spread_evenly(len(table), MOST_ON_MAP)
        places = place_on_map(vectors_NP[on_map])
        write_compact(data / "pictures.json", describe_pictures(table, values, on_map, places))
        site = {
            **options.describe(index, table, fields),
            "is_static": True,
            "vector_type": options.vector_type,
            "model": model,
            "prepare": preparation,
            "cut": describe_cut(background_TP, vectors_NP),
            "map": write_sheets([tiles[row] for row in on_map], data),
            "load_bytes": bytes_to_load(folder, model),
        }
        write_compact(data / "site.json", site)
        write_readme(folder, site["title"])
    return site


def check_target(target: Path):
    """Reject a target that would overwrite anything but a site that was written before.

    Raises:
        UserError: it holds something else.
    """
    if target.resolve() == Path.cwd() or not is_site(target):
        check_new(target)
        return
    known = SITE_NAMES | {file.name for file in WEB_FOLDER.iterdir()}
    others = {file.name for file in target.iterdir()} - known
    others |= {f"data/{file.name}" for file in (target / "data").iterdir()} - {
        f"data/{name}" for name in DATA_NAMES
    }
    if others:
        raise UserError(
            f"{str(target)!r} has {min(others)!r}, which is no part of a page, and would be lost: "
            "move it elsewhere, or name another folder"
        )


def is_site(folder: Path) -> bool:
    """Whether a folder is a static site as `write_site` writes it."""
    try:
        content = json.loads((folder / "data" / "site.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("is_static") is True and "prepare" in content


def read_pictures(index: PictureIndex) -> pa.Table:
    """The readable pictures of an index, by their id.

    Raises:
        UserError: there is none.
    """
    table = index.table.to_arrow()
    table = table.filter(pc.is_valid(table["vector"])).sort_by("id")
    if not len(table):
        raise UserError(f"the index {index.name!r} has no picture to show")
    return table


def vectors_of(table: pa.Table) -> np.ndarray:
    """The vectors of a table: float32 (N, P)."""
    column = table["vector"].combine_chunks()
    return column.flatten().to_numpy().reshape(len(table), -1)


def write_thumbnails(
    index: PictureIndex, table: pa.Table, data: Path, side: int
) -> tuple[pa.Table, list[Image.Image]]:
    """Write the thumbnails of the pictures that are still there.

    Returns:
        The rows of those pictures, and a tile for the map of each.

    Raises:
        UserError: none is there any more.
    """
    kept: list[int] = []
    tiles: list[Image.Image] = []
    for row, thumbnail in enumerate(read_thumbnails(index, table, side)):
        if thumbnail is None:
            continue
        folder = data / "thumbnails" / str(len(kept) // PER_FOLDER)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{len(kept)}.webp").write_bytes(encode(thumbnail))
        tiles.append(make_tile(thumbnail))
        kept.append(row)
    if not kept:
        raise UserError(f"no picture of {index.name!r} can be read any more: were they moved?")
    if len(kept) < len(table):
        logger.warning(
            "%d pictures cannot be read any more and are left out", len(table) - len(kept)
        )
    return table.take(kept), tiles


def read_thumbnails(
    index: PictureIndex, table: pa.Table, side: int
) -> Iterator[Image.Image | None]:
    """The thumbnail of each row, in order; None for one that cannot be read any more."""

    def read(row: dict[str, Any]) -> Image.Image | None:
        try:
            return make_thumbnail(index.open_picture(row, side, is_clear_kept=True), side)
        except UserError as error:
            logger.warning("%s", error)
            return None

    rows = table.drop_columns(["vector"]).to_pylist()
    with ThreadPoolExecutor(THREADS) as pool:
        yield from map_ahead(pool, read, rows, 8 * THREADS)


def describe_cut(background: np.ndarray, vectors: np.ndarray) -> dict[str, Any] | None:
    """What cut.js needs to tell which hits fit; None if the collection is too small to tell.

    Args:
        background: embeddings of the fixed texts about everything, (T, P).
        vectors: of the pictures, (N, P).
    """
    cut = Cut.measure(background, vectors)
    if cut is None:
        return None
    return {
        "text_mean": cut.text_mean.tolist(),
        "picture_mean": cut.picture_mean.tolist(),
        "text_deviation": cut.text_deviation,
        "picture_deviation": cut.picture_deviation,
        "min_margin": DEFAULT_MARGIN,
    }


def describe_pictures(
    table: pa.Table, fields: dict[str, list[Any]], on_map: np.ndarray, places: np.ndarray
) -> dict[str, Any]:
    """The content of `data/pictures.json`, by column."""
    columns: dict[str, Any] = {
        name: table[name].to_pylist() for name in ("name", "width", "height")
    }
    columns["caption"] = [text or "" for text in table["caption"].to_pylist()]
    columns["fields"] = fields
    x, y = places.round(4).astype(float).T.tolist() if len(places) else ([], [])
    columns["map"] = {"rows": on_map.tolist(), "x": x, "y": y}
    return columns


def write_sheets(tiles: Sequence[Image.Image], data: Path) -> dict[str, Any]:
    """Write the sheets of the map, and describe them."""
    folder = data / "map"
    folder.mkdir()
    names = []
    for number, sheet in enumerate(make_sheets(tiles)):
        (folder / f"{number}.webp").write_bytes(encode(sheet))
        names.append(f"data/map/{number}.webp")
    return describe_sheets(names)


def bytes_to_load(folder: Path, model: dict[str, Any]) -> int:
    """The size of what a visitor's browser loads before the first search."""
    runtime = next((folder / "vendor").rglob("*.wasm.gz"))
    files = [folder / "model" / name for name in model["files"]["text"]]
    return sum(file.stat().st_size for file in (*files, runtime, folder / "data/vectors.bin"))


def write_compact(path: Path, content: Any):
    """Write JSON as short as it can be; numbers that JSON cannot have are a bug."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    path.write_text(text, encoding="utf-8")


def write_readme(folder: Path, title: str):
    """Write the card with which the folder is a static Space on the Hub."""
    head = {"title": title, "sdk": "static", "app_file": "index.html", "pinned": False}
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()]
    text = "\n".join(["---", *lines, "---", "", "A page that searches pictures in the browser."])
    (folder / "README.md").write_text(f"{text}\n", encoding="utf-8")
