"""A large index is searched by its vector index, tuned to a recall, filters included."""

import hashlib
import json

import numpy as np
import pyarrow as pa
import pytest

from modeling_clip_vit.search import approximate
from modeling_clip_vit.search.approximate import LargeTable, Tuning, prepare_large
from modeling_clip_vit.search.engine import PictureSearch
from modeling_clip_vit.search.filters import parse_filter
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.query import EmbeddedQuery
from modeling_clip_vit.search.schema import table_schema
from modeling_clip_vit.search.settings import IndexModel

pytestmark = pytest.mark.slow

COUNT, SIZE = 30_000, 64


def draw(count: int, seed: int) -> np.ndarray:
    """Vectors around centres, of length 1."""
    generator = np.random.default_rng(seed)
    centres = np.random.default_rng(0).standard_normal((300, SIZE))
    vectors = centres[generator.integers(0, 300, count)]
    vectors = vectors + 0.8 * generator.standard_normal((count, SIZE))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def made_rows(schema: pa.Schema, vectors: np.ndarray, first: int) -> pa.Table:
    """Rows with these vectors."""
    numbers = range(first, first + len(vectors))
    columns = {
        "id": [f"{n % 10}/{n}.jpg" for n in numbers],
        "path": [f"{n % 10}/{n}.jpg" for n in numbers],
        "root": ["/nowhere"] * len(vectors),
        "name": [f"{n}.jpg" for n in numbers],
        "sha256": [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers],
        "width": list(numbers),
        "vector": list(vectors),
    }
    arrays = [
        pa.array(columns[field.name], field.type)
        if field.name in columns
        else pa.nulls(len(vectors), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return draw(COUNT, 1)


@pytest.fixture(scope="module")
def index(tmp_path_factory, exported, vectors) -> PictureIndex:
    """An index of vectors without pictures, with a tuned vector index."""
    model = IndexModel("made", "0", SIZE, 10.0, None, 32)
    place = tmp_path_factory.mktemp("index") / "i"
    index = PictureIndex.create(place, model, exported)
    index.table.add(made_rows(table_schema(SIZE), vectors, 0))
    prepare_large(index, draw(60, 2), say=lambda line: None)
    return PictureIndex.open(place)


@pytest.fixture(scope="module")
def large(index) -> LargeTable:
    return LargeTable(index, index.table)


def recall(large: LargeTable, vectors: np.ndarray, condition=None, allowed=None) -> float:
    """The share of the ten nearest that are found, over queries that tuning never saw."""
    found = 0
    places = np.arange(len(vectors)) if allowed is None else np.flatnonzero(allowed)
    for query in draw(60, 3):
        rows, _, _, _ = large.search(query, 10, condition)
        scores = vectors[places] @ query
        expected = {f"{n}.jpg" for n in places[np.argsort(-scores)[:10]]}
        found += len(expected & {row["name"] for row in rows})
    return found / 600


def test_nine_of_ten_of_the_nearest_are_found(large, vectors):
    assert recall(large, vectors) >= 0.93


@pytest.mark.parametrize("share", [0.5, 0.2, 0.04, 0.001])
def test_they_are_found_under_a_filter_too(large, vectors, share, monkeypatch):
    monkeypatch.setattr(approximate, "FEW", 600)  # so that the vector index is used for most
    condition = parse_filter(f"width < {int(COUNT * share)}", large.schema)
    assert recall(large, vectors, condition, np.arange(COUNT) < COUNT * share) >= 0.93


def test_lancedb_s_own_settings_find_less(index, vectors):
    found = 0
    for query in draw(60, 3):
        rows = index.table.search(query, vector_column_name="vector").distance_type("cosine")
        names = rows.limit(10).select(["name", "_distance"]).to_arrow()["name"].to_pylist()
        found += len({f"{n}.jpg" for n in np.argsort(-(vectors @ query))[:10]} & set(names))
    assert found / 600 < 0.93


def test_what_was_tuned_is_kept_in_the_index(index):
    options = json.loads((index.place.folder / "index.json").read_text())["options"]
    tuning = Tuning.read(options)
    assert tuning.rows == COUNT
    assert tuning.open.recall >= approximate.TARGET_RECALL
    assert tuning.hundredth.nprobes >= tuning.tenth.nprobes


def test_scores_are_exact_and_in_order(large, vectors):
    query = draw(1, 5)[0]
    rows, found, _, _ = large.search(query, 20, None)
    scores = found @ query
    assert (np.diff(scores) <= 0).all()
    expected = [vectors[int(row["name"].removesuffix(".jpg"))] @ query for row in rows]
    np.testing.assert_allclose(scores, expected, rtol=1e-5)


def test_what_is_added_is_found_at_once(index):
    search = PictureSearch(index, most_exact=1000)
    search.background = draw(60, 2)  # the model in this index embeds to another size
    new = draw(50, 9)
    search(EmbeddedQuery(new[0]), 1)
    index.database.open_table("pictures").add(made_rows(table_schema(SIZE), new, 10**6))
    for number, vector in enumerate(new[:10]):
        [hit] = search(EmbeddedQuery(vector), 1).hits
        assert hit.row["name"] == f"{10**6 + number}.jpg"


def test_it_is_built_once(index):
    lines = []
    prepare_large(PictureIndex.open(index.name), draw(60, 2), lines.append)
    assert lines == []
