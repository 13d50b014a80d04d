"""Find the pictures of an index that are nearest to a query.

Up to `MOST_EXACT` pictures, all of them are compared, in numpy; a larger index is searched with
LanceDB's IVF_RQ, as `approximate.py` tuned it. Either way a filter is applied before the search,
pictures that were added a moment ago are found, and scores are exact cosines.

Shape legend: `N` pictures, `P` projection, `K` hits.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from ..data.decoding import BadImageError, decode_image
from ..utils.errors import UserError
from .cut import DEFAULT_MARGIN, Cut, background_texts, probabilities
from .filters import Condition, evaluate
from .index import PictureIndex
from .query import EmbeddedQuery, Part, embed_query, parse_query
from .schema import TABLE
from .snapshot import (
    SEARCH_FOLDER,
    Snapshot,
    local_version,
    open_snapshot,
    read_table,
    row_values,
    write_snapshot,
)

#: Larger indexes are searched approximately.
MOST_EXACT = 200_000
#: Scores whose maximum is taken at first, to find the highest of all.
BLOCK = 64
BACKGROUND_FILE = f"{SEARCH_FOLDER}/background.npy"


@dataclass(frozen=True)
class Hit:
    """A picture that was found.

    Args:
        row: columns of the index -> values.
        score: cosine similarity.
        margin: number of standard deviations by which the score exceeds the best score that a
            collection of this size reaches by chance; None if the collection is too small to tell.
        fits: whether the margin is large enough; None if there is none.
        probability: that picture and query belong together, by a sigmoid model; None otherwise.
    """

    row: dict[str, Any]
    score: float
    margin: float | None
    fits: bool | None
    probability: float | None


@dataclass(frozen=True)
class Found:
    """What a search found.

    Args:
        hits: best first.
        searched: number of pictures that the filter let through.
        unreadable: number of pictures of the index without a vector.
    """

    hits: list[Hit]
    searched: int
    unreadable: int

    @property
    def nothing_fits(self) -> bool:
        """Whether not even the best hit fits."""
        return not any(hit.fits is None or hit.fits for hit in self.hits)


class PictureSearch:
    """Searches an index, and keeps what it read of it until the index changes.

    Args:
        index: an opened index.
        threads: that the model computes with; None leaves it to the runtime.
        min_margin: hits with this margin or more fit.
        most_exact: larger indexes are searched approximately.

    Example:
        >>> search = PictureSearch(PictureIndex.open("pictures.index"))
        >>> search(search.embed("a dog - snow"), top_k=5).hits
    """

    def __init__(
        self,
        index: PictureIndex,
        threads: int | None = None,
        min_margin: float = DEFAULT_MARGIN,
        most_exact: int = MOST_EXACT,
    ):
        self.index, self.threads = index, threads
        self.min_margin, self.most_exact = min_margin, most_exact
        self._snapshot: Snapshot | None = None
        self._large: Any = None
        self._cut: Cut | None = None
        self._masks: dict[Condition, np.ndarray] = {}

    @cached_property
    def text_encoder(self) -> Any:
        """The text tower of the index."""
        return self.index.text_encoder(self.threads)

    @cached_property
    def image_encoder(self) -> Any:
        """The image tower of the index."""
        return self.index.image_encoder(self.threads)

    def embed(self, query: str | None, similar: Sequence[str] = ()) -> EmbeddedQuery:
        """Embed a query as `parse_query` reads it.

        Raises:
            UserError: the query cannot be searched with.
        """
        return self.embed_parts(parse_query(query, similar))

    def embed_parts(self, parts: Sequence[Part]) -> EmbeddedQuery:
        """Embed the parts of a query."""
        return embed_query(parts, self.text_encoder, self.encode_files)

    def encode_files(self, paths: list[str]) -> np.ndarray:
        """Embed picture files, (N, P).

        Raises:
            UserError: one cannot be decoded.
        """
        images = []
        for path in paths:
            try:
                images.append(decode_image(path))
            except BadImageError as error:
                raise UserError(f"the picture {path!r} cannot be read: {error}") from error
        return self.image_encoder(images)

    @property
    def schema(self) -> pa.Schema:
        """The columns of the index with their types."""
        self.refresh()
        return self._large.schema if self._large is not None else self._rows.schema

    def __call__(
        self, query: EmbeddedQuery, top_k: int = 5, condition: Condition | None = None
    ) -> Found:
        """The pictures nearest to a query, best first.

        Args:
            query: as `embed` returns it.
            top_k: number of hits.
            condition: only pictures for which it is true are searched.
        """
        self.refresh()
        if self._large is not None:
            rows, vectors, searched, unreadable = self._large.search(query.vector, top_k, condition)
        else:
            rows, vectors, searched = self.search_exactly(query.vector, top_k, condition)
            unreadable = self._open_snapshot.unreadable
        return Found(self.judge(query, rows, vectors, searched), searched, unreadable)

    def read_all(self) -> Snapshot:
        """All readable pictures of the index."""
        self.refresh()
        if self._snapshot is None:
            size = self.index.settings.model.embedding_size
            return read_table(self._large.table, size)
        return self._snapshot

    def search_exactly(
        self, vector: np.ndarray, top_k: int, condition: Condition | None
    ) -> tuple[list[dict[str, Any]], np.ndarray, int]:
        """Compare all pictures: rows and vectors (K, P) of the nearest, and how many there were."""
        vectors = self._open_snapshot.vectors
        allowed = None if condition is None else self.allowed(condition)
        if allowed is None:
            scores = cosines(vectors, vector)
        elif len(allowed) * 4 < len(vectors):
            scores = cosines(vectors[allowed], vector)
        else:
            scores = cosines(vectors, vector)[allowed]
        best = nearest(scores, top_k)
        places = best if allowed is None else allowed[best]
        rows = [row_values(self._rows, int(place)) for place in places]
        return rows, np.asarray(vectors[places]), len(scores)

    def allowed(self, condition: Condition) -> np.ndarray:
        """The places of pictures for which a condition is true; kept for the next search."""
        if condition not in self._masks:
            if len(self._masks) >= 32:
                self._masks.clear()
            mask = evaluate(condition, self._rows).fill_null(False)
            self._masks[condition] = np.flatnonzero(mask.to_numpy())
        return self._masks[condition]

    def judge(
        self, query: EmbeddedQuery, rows: list[dict[str, Any]], vectors: np.ndarray, searched: int
    ) -> list[Hit]:
        """Say of each hit how near it is, and whether it fits."""
        scores, model = vectors @ query.vector, self.index.settings.model
        margins: Sequence[float | None] = [None] * len(rows)
        if self._cut is not None and len(rows):
            margins = self._cut.margins(query, vectors, searched).tolist()
        chances: Sequence[float | None] = [None] * len(rows)
        found = probabilities(scores, model.logit_scale, model.logit_bias)
        if found is not None:
            chances = found.tolist()
        return [
            Hit(row, score, margin, None if margin is None else margin >= self.min_margin, chance)
            for row, score, margin, chance in zip(
                rows, scores.tolist(), margins, chances, strict=True
            )
        ]

    def refresh(self):
        """Read the index again if it has changed since."""
        folder = self.index.place.folder
        version = None if folder is None else local_version(folder)
        if version is None:
            table = self.index.table
            table.checkout_latest()
            version = table.version
        current = self._large or self._snapshot
        if current is not None and current.version == version:
            return
        if folder is not None and (kept := open_snapshot(folder, version)) is not None:
            self.use(kept)
            return
        table = self.index.database.open_table(TABLE)
        if table.count_rows() > self.most_exact:
            from .approximate import LargeTable

            self._snapshot, self._large = None, LargeTable(self.index, table)
            self._cut = self._large.measure_cut(self.background)
            return
        snapshot = read_table(table, self.index.settings.model.embedding_size)
        self.use(snapshot)
        if folder is not None:
            with suppress(OSError):  # an index that can only be read is read by each process
                write_snapshot(folder, snapshot)

    def use(self, snapshot: Snapshot):
        """Search in a copy of the table from now on."""
        self._snapshot, self._large, self._masks = snapshot, None, {}
        self._cut = Cut.measure(self.background, snapshot.vectors)

    @property
    def _open_snapshot(self) -> Snapshot:
        assert self._snapshot is not None
        return self._snapshot

    @property
    def _rows(self) -> pa.Table:
        return self._open_snapshot.rows

    @cached_property
    def background(self) -> np.ndarray:
        """Embeddings of the fixed texts that scores are measured against, kept in the index."""
        place, size = self.index.place, self.index.settings.model.embedding_size
        content = place.read(BACKGROUND_FILE)
        texts = background_texts()
        if content is not None:
            embeds = np.frombuffer(content, np.float32)
            if embeds.size == len(texts) * size:
                return embeds.reshape(-1, size)
        embeds = self.text_encoder(texts)
        with suppress(OSError):  # an index that can only be read
            if place.folder is not None:
                (place.folder / SEARCH_FOLDER).mkdir(exist_ok=True)
            place.write(BACKGROUND_FILE, np.ascontiguousarray(embeds, np.float32).tobytes())
        return embeds


def prepare_search(index: PictureIndex, say: Callable[[str], None] = print):
    """Make what searches need, so that the first one need not: a copy, or a tuned vector index.

    Args:
        index: whose table was just brought in step.
        say: takes a line about what takes long.
    """
    search = PictureSearch(index)
    if index.database.open_table(TABLE).count_rows() > MOST_EXACT:
        from .approximate import prepare_large

        prepare_large(index, search.background, say)
    search.refresh()


def cosines(vectors: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """The product of each row with a vector, (N,); einsum reads rows twice as fast as BLAS does."""
    return np.einsum("np,p->n", vectors, vector)


def nearest(scores: np.ndarray, top_k: int) -> np.ndarray:
    """The places of the highest scores, highest first; equal ones in the order of the table."""
    chosen = np.arange(len(scores))
    if top_k * BLOCK < len(scores):
        # The k-th largest of the blocks' maxima is at most the k-th largest score.
        whole = len(scores) // BLOCK * BLOCK
        maxima = scores[:whole].reshape(-1, BLOCK).max(axis=1)
        bound = np.partition(maxima, len(maxima) - top_k)[len(maxima) - top_k]
        chosen = np.flatnonzero(scores >= bound)
    return chosen[np.lexsort((chosen, -scores[chosen]))][:top_k]
