"""Search in an index that is too large to compare every picture: LanceDB's IVF_RQ, tuned.

IVF (Sivic and Zisserman, 2003) sorts vectors into partitions and looks into the nearest few;
RQ (RaBitQ: Gao and Long, 2024) keeps one bit per number of a vector there, and the best of those
are compared exactly (`refine`). LanceDB's defaults find 70 % of the ten nearest, so how many
partitions are probed is measured on this index, with and without a filter, and kept in index.json.
Under a filter that lets little through, all that it lets through is compared.

Shape legend: `N` pictures, `P` projection, `Q` queries, `K` hits.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from .cut import SAMPLE, Cut
from .filters import Compare, Condition, to_sql
from .index import PictureIndex
from .schema import ID, TABLE, VECTOR
from .settings import write_settings
from .snapshot import read_batches

#: The reason why a row has no vector; null where it has one.
ERROR = "error"
#: Entry of `options` in index.json.
OPTION = "vector_index"
#: The share of the ten nearest that tuning aims to find.
TARGET_RECALL = 0.96
NEAREST = 10
#: Under a filter that lets fewer pictures through, all of them are compared: LanceDB reads some
#: hundred vectors a millisecond, so more take longer than a search by the index does.
FEW = 4_000
#: Pictures of a partition, on average.
PARTITION_ROWS = 1000
#: Filters that about a tenth and a hundredth pass, at random: the first digits of a checksum.
SHARES = {0.1: Compare("sha256", "<", "199a"), 0.01: Compare("sha256", "<", "028f")}
#: Columns that filters are fast on, with the kind of their index.
FAST_COLUMNS = {
    **dict.fromkeys(("path", "taken", "modified", "width", "sha256"), "BTREE"),
    "camera": "BITMAP",
}
TUNING_QUERIES = 100
REFINES = (4, 10, 30)


@dataclass(frozen=True)
class Probes:
    """How thoroughly an approximate search looks.

    Args:
        nprobes: partitions that are looked into.
        refine: times as many candidates as hits are compared exactly.
        recall: of the ten nearest, measured with it.
    """

    nprobes: int
    refine: int
    recall: float


@dataclass(frozen=True)
class Tuning:
    """What was measured on an index.

    Args:
        rows: pictures of the table at that time.
        partitions: of its vector index.
        open: for searches without a filter.
        tenth, hundredth: for searches under a filter that such a share of the pictures passes.
    """

    rows: int
    partitions: int
    open: Probes
    tenth: Probes
    hundredth: Probes

    def for_share(self, share: float) -> Probes:
        """How to search under a filter that lets a share of the pictures through.

        Fewer pictures of each partition pass, so the nearest of them are spread over more: as many
        as the next smaller share that was measured needs.
        """
        if share >= 0.5:
            return self.open
        if share >= 0.1:
            return self.tenth
        chosen = self.hundredth
        nprobes = math.ceil(chosen.nprobes * max(1.0, math.sqrt(0.01 / max(share, 1e-9))))
        return Probes(min(nprobes, self.partitions), chosen.refine, chosen.recall)

    @classmethod
    def read(cls, options: dict[str, Any]) -> "Tuning | None":
        """What index.json says; None if it says nothing."""
        found = options.get(OPTION)
        if not isinstance(found, dict):
            return None
        parts = {name: Probes(**found[name]) for name in ("open", "tenth", "hundredth")}
        return cls(found["rows"], found["partitions"], **parts)


class LargeTable:
    """Searches a table by its vector index.

    Args:
        index: the index.
        table: LanceDB's, opened for this.
    """

    def __init__(self, index: PictureIndex, table: Any):
        self.index, self.table = index, table
        self.version, self.rows = table.version, table.count_rows()
        tuning = Tuning.read(index.settings.options)
        # An index that was not tuned yet is searched thoroughly rather than badly.
        partitions = max(1, self.rows // PARTITION_ROWS)
        careful = Probes(max(32, partitions // 8), max(REFINES), 0.0)
        self.tuning = tuning or Tuning(self.rows, partitions, careful, careful, careful)
        self.unreadable = table.count_rows(f"{ERROR} IS NOT NULL") if self.rows else 0
        self.counts: dict[str, int] = {}

    @property
    def schema(self) -> pa.Schema:
        """The columns of the table."""
        return self.table.schema

    def search(
        self, vector: np.ndarray, top_k: int, condition: Condition | None
    ) -> tuple[list[dict[str, Any]], np.ndarray, int, int]:
        """The nearest rows, their vectors (K, P), how many were searched and how many unreadable.

        Args:
            vector: the query, (P,).
            top_k: K.
            condition: only rows for which it is true.
        """
        where = None if condition is None else to_sql(condition)
        searched = self.rows - self.unreadable if where is None else self.count(where)
        if where is not None and searched <= FEW:
            rows = self.compare_all(vector, top_k, where)
        else:
            probes = self.tuning.for_share(searched / max(self.rows, 1))
            rows = nearest_rows(self.table, vector, top_k, probes, where)
        size = len(vector)
        vectors = rows[VECTOR].combine_chunks().flatten().to_numpy().reshape(-1, size)
        scores = vectors @ vector
        order = np.lexsort((np.arange(len(scores)), -scores))
        plain = rows.drop_columns([VECTOR]).to_pylist()
        return [plain[place] for place in order], vectors[order], searched, self.unreadable

    def count(self, where: str) -> int:
        """The number of readable rows that a filter lets through; kept for the next search."""
        if where not in self.counts:
            if len(self.counts) >= 256:
                self.counts.clear()
            whole = f"({where}) AND {ERROR} IS NULL" if self.unreadable else where
            self.counts[where] = self.table.count_rows(whole)
        return self.counts[where]

    def compare_all(self, vector: np.ndarray, top_k: int, where: str) -> pa.Table:
        """The nearest of all rows that a filter lets through."""
        row_ids, scores = [], []
        for batch in (
            self.table.search().where(where).select([VECTOR]).with_row_id(True).to_batches()
        ):
            readable = batch.filter(batch.column(VECTOR).is_valid())
            vectors_NP = readable.column(VECTOR).flatten().to_numpy().reshape(-1, len(vector))
            row_ids.append(readable.column("_rowid").to_numpy())
            scores.append(vectors_NP @ vector)
        if not row_ids:
            return self.schema.empty_table()
        best = np.argsort(-np.concatenate(scores), kind="stable")[:top_k]
        chosen = np.concatenate(row_ids)[best].tolist()
        return self.table.take_row_ids(chosen).select(self.schema.names).to_arrow()

    def measure_cut(self, background: np.ndarray) -> Cut | None:
        """What scores are measured against, from a sample spread over the table."""
        return Cut.measure(background, sample_vectors(self.table, self.rows, SAMPLE))


def nearest_rows(
    table: Any, vector: np.ndarray, top_k: int, probes: Probes, where: str | None = None
) -> pa.Table:
    """The nearest rows by the vector index, with all columns."""
    query = (
        table.search(vector, vector_column_name=VECTOR)
        .distance_type("cosine")
        .limit(top_k)
        .nprobes(probes.nprobes)
        .refine_factor(probes.refine)
        .select([*table.schema.names, "_distance"])
    )
    if where is not None:
        query = query.where(where)
    return query.to_arrow().drop_columns(["_distance"])


def sample_vectors(table: Any, rows: int, count: int) -> np.ndarray:
    """Vectors from places spread over a table, (N, P)."""
    places = np.unique(np.linspace(0, rows - 1, min(count, rows)).astype(np.int64)).tolist()
    found = table.take_offsets(places).select([VECTOR]).to_arrow()[VECTOR]
    readable = found.combine_chunks().drop_null()
    return readable.flatten().to_numpy().reshape(-1, readable.type.list_size)


def has_vector_index(table: Any) -> bool:
    """Whether a table has an index of its vectors."""
    return any(VECTOR in index.columns for index in table.list_indices())


def prepare_large(index: PictureIndex, background: np.ndarray, say: Any = print):
    """Build the vector index of a large table, tune it, and note that in index.json.

    Does nothing if that was done, and the table has not grown by more than a quarter since.

    Args:
        index: the index.
        background: embeddings of texts about everything, (Q, P): half of the tuning's queries.
        say: takes a line about what is being done.
    """
    table = index.database.open_table(TABLE)
    rows, tuning = table.count_rows(), Tuning.read(index.settings.options)
    if tuning is not None and has_vector_index(table) and rows <= 1.25 * tuning.rows:
        return
    started = time.monotonic()
    say(f"building the vector index of {rows:,} pictures, once; it takes some minutes")
    partitions = build_vector_index(table, rows)
    queries = tuning_queries(table, rows, background)
    tuning = tune(table, queries, partitions)
    index.settings.options[OPTION] = asdict(tuning)
    write_settings(index.place, index.settings)
    say(
        f"built in {time.monotonic() - started:.0f} s: finds {tuning.open.recall:.1%} of the "
        f"{NEAREST} nearest; under filters, {tuning.tenth.recall:.1%} of a tenth of the pictures, "
        f"{tuning.hundredth.recall:.1%} of a hundredth"
    )


def build_vector_index(table: Any, rows: int) -> int:
    """Index vectors, and the columns that are often filtered by; the number of partitions."""
    from lancedb.index import Bitmap, BTree, IvfRq

    partitions = max(1, rows // PARTITION_ROWS)
    config = IvfRq(distance_type="cosine", num_partitions=partitions)
    table.create_index(VECTOR, config=config)
    kinds = {"BTREE": BTree, "BITMAP": Bitmap}
    for name, kind in FAST_COLUMNS.items():
        if name in table.schema.names:
            table.create_index(name, config=kinds[kind]())
    return partitions


def tuning_queries(table: Any, rows: int, background: np.ndarray) -> np.ndarray:
    """Texts about everything and pictures of the table with some noise, (Q, P)."""
    half = TUNING_QUERIES // 2
    texts = background[:: max(1, len(background) // half)][:half]
    pictures = sample_vectors(table, rows, half)
    noise = np.random.default_rng(0).standard_normal(pictures.shape) / math.sqrt(pictures.shape[1])
    queries = np.concatenate([texts, pictures + noise]).astype(np.float32)
    return queries / np.linalg.norm(queries, axis=1, keepdims=True)


def tune(table: Any, queries: np.ndarray, partitions: int) -> Tuning:
    """Find the fastest way to search that reaches `TARGET_RECALL` on some queries.

    Args:
        table: with a vector index.
        queries: (Q, P), of length 1.
        partitions: of the vector index.
    """
    filters = [None, *map(to_sql, SHARES.values())]
    expected = true_nearest(table, queries)
    probes = [
        choose_probes(table, queries, ids, partitions, where)
        for ids, where in zip(expected, filters, strict=True)
    ]
    return Tuning(table.count_rows(), partitions, *probes)


def choose_probes(
    table: Any, queries: np.ndarray, expected: list[set[str]], partitions: int, where: str | None
) -> Probes:
    """The fastest setting that reaches the target; the most thorough one if none does."""
    best: tuple[float, Probes] | None = None
    last = Probes(partitions, max(REFINES), 0.0)
    steps = list(ladder(partitions))
    for refine in REFINES:
        # More partitions never find less: the least number that suffices is found by halving.
        low, high = 0, len(steps)
        while low < high:
            middle = (low + high) // 2
            tried = Probes(steps[middle], refine, 0.0)
            recall, seconds = measure(table, queries, expected, tried, where)
            tried = Probes(steps[middle], refine, round(recall, 4))
            last = max(last, tried, key=lambda probes: probes.recall)
            if recall < TARGET_RECALL:
                low = middle + 1
                continue
            high = middle
            if best is None or seconds < best[0]:
                best = seconds, tried
    return last if best is None else best[1]


def ladder(partitions: int) -> Iterator[int]:
    """Numbers of partitions to try: steps of about a third."""
    number = 8
    while number < partitions:
        yield number
        number = math.ceil(number * 1.35)
    yield partitions


def measure(
    table: Any, queries: np.ndarray, expected: list[set[str]], probes: Probes, where: str | None
) -> tuple[float, float]:
    """The recall of a setting, and the median seconds of a query."""
    found, seconds = 0, []
    for query, ids in zip(queries, expected, strict=True):
        started = time.perf_counter()
        rows = nearest_rows(table, query, NEAREST, probes, where)
        seconds.append(time.perf_counter() - started)
        found += len(ids.intersection(rows[ID].to_pylist()))
    return found / max(1, sum(map(len, expected))), float(np.median(seconds))


def true_nearest(table: Any, queries: np.ndarray) -> list[list[set[str]]]:
    """The ids of the nearest rows of each query: of all, and of those that pass each filter."""
    keepers = [Nearest(len(queries)) for _ in range(1 + len(SHARES))]
    for batch, vectors_NP in read_batches(table, [ID, "sha256", VECTOR]):
        readable = batch.filter(batch.column(VECTOR).is_valid())
        scores_QN = queries @ vectors_NP.T
        ids = readable.column(ID).to_numpy(zero_copy_only=False)
        sums = readable.column("sha256").to_numpy(zero_copy_only=False)
        keepers[0].add(scores_QN, ids)
        for keeper, share in zip(keepers[1:], SHARES.values(), strict=True):
            passes = np.array([it is not None and it < share.value for it in sums], bool)
            keeper.add(scores_QN[:, passes], ids[passes])
    return [keeper.ids() for keeper in keepers]


class Nearest:
    """The best ids of each query so far.

    Args:
        count: Q.
    """

    def __init__(self, count: int):
        self.scores = np.zeros((count, 0), np.float32)
        self.found = np.zeros((count, 0), object)

    def add(self, scores: np.ndarray, ids: np.ndarray):
        """Take in some rows.

        Args:
            scores: (Q, N).
            ids: (N,).
        """
        if not len(ids):
            return
        scores_QN = np.concatenate([self.scores, scores], axis=1)
        ids_QN = np.concatenate([self.found, np.broadcast_to(ids, scores.shape)], axis=1)
        best = np.argpartition(-scores_QN, min(NEAREST, scores_QN.shape[1]) - 1, axis=1)
        best = best[:, :NEAREST]
        self.scores = np.take_along_axis(scores_QN, best, axis=1)
        self.found = np.take_along_axis(ids_QN, best, axis=1)

    def ids(self) -> list[set[str]]:
        """The ids of the nearest rows of each query."""
        return [set(row) for row in self.found]
