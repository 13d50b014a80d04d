"""A shard: some pictures, read, embedded and put into the rows of an Arrow table.

The same function of a shard runs in this process, in several, and on other machines.

Shape legend: `N` pictures, `Y` and `X` rows and columns of pixels, `P` projection.
"""

from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from itertools import chain
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..utils.ahead import batched, map_ahead
from ..utils.errors import UserError
from .reading import Item, PictureReader, Prepared
from .schema import VECTOR


class PixelEncoder(Protocol):
    """Embeds prepared pixels."""

    def embed_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embed resized images, each uint8 (Y, X, 3): float32 (N, P) of length 1."""


class ShardEmbedder:
    """Reads and embeds the pictures of a shard.

    Args:
        reader: reads one picture.
        encoder: embeds pixels.
        schema: of the rows.
        pool: reads pictures ahead of the encoder.
        batch_size: pictures that are embedded at a time.
    """

    def __init__(
        self,
        reader: PictureReader,
        encoder: PixelEncoder,
        schema: pa.Schema,
        pool: Executor,
        batch_size: int = 64,
    ):
        self.reader, self.encoder, self.schema = reader, encoder, schema
        self.pool, self.batch_size = pool, batch_size

    def __call__(self, items: Iterable[Item]) -> tuple[pa.Table, list[str]]:
        """The rows of a shard, without those of files that are gone, and the ids of those.

        Rows of contents that the index knows have no vector yet.
        """
        rows: list[dict[str, Any]] = []
        vectors: list[np.ndarray | None] = []
        gone: list[str] = []
        read = map_ahead(self.pool, self.reader, items, 2 * self.batch_size)
        for batch in batched(chain.from_iterable(read), self.batch_size):
            kept = [prepared for prepared in batch if not prepared.is_gone]
            gone += [prepared.columns["id"] for prepared in batch if prepared.is_gone]
            rows += [prepared.columns for prepared in kept]
            vectors += self.embed(kept)
        return make_table(rows, vectors, self.schema), gone

    def embed(self, batch: Sequence[Prepared]) -> list[np.ndarray | None]:
        """The vector of each picture, (P,); None for those without pixels.

        Raises:
            UserError: the model gives numbers that are none.
        """
        pixels = [prepared.pixels for prepared in batch if prepared.pixels is not None]
        if not pixels:
            return [None] * len(batch)
        embeds_NP = self.encoder.embed_pixels(pixels)
        if not np.isfinite(embeds_NP).all():
            raise UserError(
                "the model gives pictures an embedding that is not a number: its weights are "
                "damaged, or overflow in half precision"
            )
        waiting = iter(embeds_NP)
        return [None if prepared.pixels is None else next(waiting) for prepared in batch]


def make_table(
    rows: Sequence[dict[str, Any]], vectors: Sequence[np.ndarray | None], schema: pa.Schema
) -> pa.Table:
    """Rows as a table of the schema; columns that a row lacks are null.

    Args:
        rows: columns of each.
        vectors: of each, (P,), or None.
        schema: with the column `vector`.
    """
    columns = []
    for field in schema:
        if field.name == VECTOR:
            columns.append(make_vectors(vectors, field.type.list_size))
        else:
            columns.append(pa.array([row.get(field.name) for row in rows], field.type))
    return pa.table(columns, schema=schema)


def make_vectors(vectors: Sequence[np.ndarray | None], size: int) -> pa.Array:
    """Vectors as an Arrow array, null where there is none."""
    filled_NP = np.zeros((len(vectors), size), np.float32)
    for place, vector in enumerate(vectors):
        if vector is not None:
            filled_NP[place] = vector
    missing = pa.array([vector is None for vector in vectors], pa.bool_())
    return pa.FixedSizeListArray.from_arrays(pa.array(filled_NP.reshape(-1)), size, mask=missing)
