"""The pictures of an index that may grow while it is served.

Shape legend: `T` texts, `P` projection.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pyarrow as pa

from ..search.engine import PictureSearch
from ..search.filters import Compare, to_sql
from ..search.index import PictureIndex
from ..utils.errors import UserError
from .contents import MOST_IN_MEMORY, Contents, read_contents, version_of
from .fields import choose_columns, describe_columns, folder_of, readable
from .model_files import describe_model, describe_preparation
from .options import PageOptions
from .thumbnails import encode, make_thumbnail

logger = logging.getLogger(__name__)

#: Thumbnails, and rows of pictures shown lately, that are kept in memory.
MOST_THUMBNAILS, MOST_ROWS = 4_096, 50_000
#: Longer side in the dialog of a picture whose file browsers cannot show, in pixels.
LARGE_SIDE = 1_600


class RequestError(UserError):
    """A question that cannot be answered; the message is one clear sentence."""


class Recent(OrderedDict):
    """A mapping that forgets what was set longest ago.

    Args:
        size: number of entries that are kept.
    """

    def __init__(self, size: int):
        super().__init__()
        self.size = size

    def __setitem__(self, key: Any, value: Any):
        super().__setitem__(key, value)
        self.move_to_end(key)
        if len(self) > self.size:
            self.popitem(last=False)


class Collection:
    """An index as a page shows it; safe to use from several threads.

    Args:
        index: an opened index.
        options: what the page shows.
        threads: that the model computes with; None leaves it to the runtime.
        most_in_memory: pictures whose vectors are held for classification.
    """

    def __init__(
        self,
        index: PictureIndex,
        options: PageOptions,
        threads: int | None = None,
        most_in_memory: int = MOST_IN_MEMORY,
    ):
        self.index, self.options, self.most_in_memory = index, options, most_in_memory
        self.lock = threading.RLock()
        self.search = PictureSearch(index, threads)
        self.model, self.preparation = describe_model(index), describe_preparation(index)
        self.columns = choose_columns(index.columns, options.columns)
        self.rows, self.thumbnails = Recent(MOST_ROWS), Recent(MOST_THUMBNAILS)
        self._contents: Contents | None = None
        self._description: dict[str, Any] = {}
        self._described: int | None = None

    @property
    def contents(self) -> Contents:
        """The pictures of the index as it is now."""
        version = version_of(self.index)
        with self.lock:
            if self._contents is None or self._contents.version != version:
                self._contents = read_contents(self.index, self.columns, self.most_in_memory)
            return self._contents

    def describe(self) -> dict[str, Any]:
        """The content of `data/site.json`, of the index as it is now."""
        contents = self.contents
        with self.lock:
            if self._described == contents.version:
                return self._description
            fields, _ = describe_columns(contents.rows, self.columns)
            self._description = {
                **self.options.describe(self.index, contents.rows, fields),
                "is_static": False,
                "model": self.model,
                "prepare": self.preparation,
            }
            self._described = contents.version
            return self._description

    def read_background(self) -> np.ndarray:
        """Embeddings of the fixed texts about everything, (T, P)."""
        with self.lock:
            return self.search.background

    def picture(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of the index as the page shows it."""
        with self.lock:
            self.rows[row["id"]] = row
        details = {
            name: folder_of(row["path"]) if name == "folder" else plain(row.get(name))
            for name in self.columns
        }
        address = urlencode({"id": row["id"], "v": stamp_of(row)})
        return {
            "key": row["id"],
            "name": row["name"],
            "caption": row.get("caption") or "",
            "width": row.get("width"),
            "height": row.get("height"),
            "thumbnail": f"thumbnail?{address}",
            "original": f"picture?{address}",
            "details": {name: value for name, value in details.items() if value is not None},
        }

    def find_row(self, id: str, is_vector_needed: bool = False) -> Mapping[str, Any]:
        """The row of a picture.

        Args:
            id: of the picture.
            is_vector_needed: whether its vector is read as well.

        Raises:
            RequestError: there is none.
        """
        with self.lock:
            if not is_vector_needed and id in self.rows:
                return self.rows[id]
            names = [it for it in self.index.columns if it != "vector" or is_vector_needed]
            self.index.table.checkout_latest()
            # The value is quoted by LanceDB.
            query = self.index.table.search().where(to_sql(Compare("id", "==", id)))
            found = query.select(names).limit(1).to_list()
        if not found or (is_vector_needed and found[0]["vector"] is None):
            raise RequestError("there is no such picture in the index")
        return found[0]

    def thumbnail(self, id: str) -> bytes:
        """A picture's thumbnail as WebP.

        Raises:
            UserError: there is no such picture, or it cannot be read any more.
        """
        row, side = self.find_row(id), self.options.thumbnail_size
        key = (id, stamp_of(row))
        with self.lock:
            content = self.thumbnails.get(key)
        if content is None:
            content = self.encode_picture(row, side)
            with self.lock:
                self.thumbnails[key] = content
        return content

    def encode_picture(self, row: Mapping[str, Any], side: int) -> bytes:
        """A picture as WebP, with a longer side of `side` pixels at most.

        Raises:
            RequestError: it cannot be read any more.
        """
        with without_paths(row):
            picture = self.index.open_picture(row, side, is_clear_kept=True)
            return encode(make_thumbnail(picture, side))


@contextmanager
def without_paths(row: Mapping[str, Any]) -> Iterator[None]:
    """Report a picture that cannot be read without its path, which visitors need not know.

    Raises:
        RequestError: instead of any other `UserError` of the block.
    """
    try:
        yield
    except UserError as error:
        logger.warning("%s", error)
        raise RequestError(
            f"{row['id']!r} is not there any more, cannot be read, or lies outside the collection"
        ) from error


def stamp_of(row: Mapping[str, Any]) -> str:
    """A text that changes with the content of a picture, for its address."""
    return (row.get("sha256") or "")[:16]


def plain(value: Any) -> Any:
    """A value of a column as JSON has it; None for a type that people cannot read."""
    if value is None:
        return None
    shown = readable(pa.chunked_array([pa.array([value])]))
    return None if shown is None else shown[0]
