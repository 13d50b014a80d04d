"""What a page shows, whether it is static or served."""

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from ..search.index import PictureIndex
from ..search.rejection import LEAST_MARGIN
from ..utils.errors import UserError
from .fields import Field
from .placement import spread_evenly

#: Version of the format of `data/site.json`.
FORMAT_VERSION = 1
#: Examples of queries, and how long one may be.
NUM_EXAMPLES, EXAMPLE_LENGTH = 6, 32
SMALLEST_THUMBNAIL, LARGEST_THUMBNAIL = 64, 2048


@dataclass
class PageOptions:
    """What a page shows.

    Args:
        title: title of the page; by default the name of the index without `.index`.
        examples: queries to offer; some short captions by default.
        labels: labels to offer for classification; general ones by default.
        columns: columns to show and filter by, and `folder`; all but places by default.
        thumbnail_size: longer side of a thumbnail, in pixels.
    """

    title: str | None = None
    examples: list[str] | None = None
    labels: list[str] | None = None
    columns: list[str] | None = None
    thumbnail_size: int = 360

    def __post_init__(self):
        if not SMALLEST_THUMBNAIL <= self.thumbnail_size <= LARGEST_THUMBNAIL:
            raise UserError(
                f"--thumbnail_size is {self.thumbnail_size}, and can be {SMALLEST_THUMBNAIL} to "
                f"{LARGEST_THUMBNAIL}"
            )

    def describe(
        self, index: PictureIndex, pictures: pa.Table, fields: list[Field]
    ) -> dict[str, Any]:
        """The part of `data/site.json` that static and served pages share.

        Args:
            index: that the page shows.
            pictures: rows of the index, those that can be read.
            fields: what the page shows and filters by.
        """
        name = index.name.rstrip("/").rsplit("/", 1)[-1].removesuffix(".index")
        return {
            "version": FORMAT_VERSION,
            "title": self.title or name,
            "count": len(pictures),
            "embedding_size": index.settings.model.embedding_size,
            "fields": [field.to_json() for field in fields],
            "examples": choose_examples(pictures) if self.examples is None else self.examples,
            "labels": self.labels or [],
            "min_class_margin": LEAST_MARGIN,
        }


def choose_examples(pictures: pa.Table) -> list[str]:
    """Short captions from all over the collection; none if it has no captions.

    Args:
        pictures: rows of an index.
    """
    captions = dict.fromkeys(text for text in pictures["caption"].to_pylist() if text)
    short = [text for text in captions if len(text) <= EXAMPLE_LENGTH]
    return [short[place] for place in spread_evenly(len(short), NUM_EXAMPLES)] if short else []
