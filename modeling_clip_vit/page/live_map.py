"""The map of a served index, made when a visitor first looks at it."""

import io
import threading
from typing import Any

from PIL import Image

from ..utils.errors import UserError
from .collection import Collection
from .placement import place_on_map, spread_evenly
from .thumbnails import TILES, describe_sheets, encode, make_sheets, make_tile


class LiveMap:
    """The map of a collection, made again once the index has changed.

    Args:
        collection: of pictures, of which one sheet is shown.
    """

    def __init__(self, collection: Collection):
        self.collection = collection
        self.lock = threading.Lock()
        self.version: int | None = None
        self.content: dict[str, Any] = {}
        self.sheet = b""

    def refresh(self) -> "LiveMap":
        """Make the map unless it is there: `content` of `data/map.json`, and its `sheet`."""
        with self.lock:
            contents = self.collection.contents
            if self.version == contents.version:
                return self
            chosen = spread_evenly(len(contents), TILES)
            places = place_on_map(contents.vectors_at(chosen))
            points: list[dict[str, Any]] = []
            tiles: list[Image.Image] = []
            for row, (x, y) in zip(
                contents.rows.take(chosen).to_pylist(), places.tolist(), strict=True
            ):
                picture = self.collection.picture(row)
                try:
                    thumbnail = self.collection.thumbnail(row["id"])
                except UserError:
                    continue  # its file is not there any more
                tiles.append(make_tile(Image.open(io.BytesIO(thumbnail))))
                points.append({**picture, "place": len(points), "x": x, "y": y})
            self.sheet = b"".join(encode(sheet) for sheet in make_sheets(tiles))
            sheets = [f"data/map.webp?v={contents.version}"] if points else []
            self.content = {"points": points, **describe_sheets(sheets)}
            self.version = contents.version
            return self
