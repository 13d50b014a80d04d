"""Small copies of pictures for the page, without any of their metadata."""

import io
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image

QUALITY = 82
#: Side of a picture on a sheet of the map, in pixels; pictures across a sheet; and on a sheet.
TILE, TILE_COLUMNS = 48, 40
TILES = TILE_COLUMNS**2
#: What is behind transparent parts on the map, so that white drawings are seen as well.
BEHIND = (232, 232, 232)


def make_thumbnail(picture: Image.Image, side: int) -> Image.Image:
    """An RGB or RGBA picture whose longer side is `side` pixels at most."""
    small = picture.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def make_tile(picture: Image.Image) -> Image.Image:
    """The middle square of an RGB or RGBA picture, in RGB and the size that the map draws."""
    if picture.mode == "RGBA":
        behind = Image.new("RGBA", picture.size, BEHIND)
        picture = Image.alpha_composite(behind, picture).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    box = (left, top, left + side, top + side)
    return picture.resize((TILE, TILE), Image.Resampling.LANCZOS, box=box)


def encode(picture: Image.Image) -> bytes:
    """A picture as WebP, without EXIF data, a profile or a comment."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=QUALITY, method=4, exif=b"", icc_profile=None)
    return buffer.getvalue()


def make_sheets(tiles: Sequence[Image.Image]) -> Iterator[Image.Image]:
    """Sheets of tiles, row by row."""
    for start in range(0, len(tiles), TILES):
        part = tiles[start : start + TILES]
        rows = -(-len(part) // TILE_COLUMNS)
        sheet = Image.new("RGB", (TILE_COLUMNS * TILE, rows * TILE), "white")
        for place, tile in enumerate(part):
            row, column = divmod(place, TILE_COLUMNS)
            sheet.paste(tile, (column * TILE, row * TILE))
        yield sheet


def describe_sheets(addresses: list[str]) -> dict[str, Any]:
    """What the page must know to cut sheets, at these addresses, into tiles."""
    return {
        "tile": TILE,
        "columns": TILE_COLUMNS,
        "per_sheet": TILES,
        "sheets": addresses,
    }
