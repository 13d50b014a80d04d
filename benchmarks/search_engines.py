"""Time and recall of searches in vectors: this package beside FAISS and usearch, in one run.

    pip install faiss-cpu usearch
    python benchmarks/search_engines.py [--count 100000] [--size 512] [--queries 200] \
        [--engines numpy lance faiss-flat faiss-ivf faiss-hnsw usearch] [--folder FOLDER]

Vectors lie around 20,000 centres with a decaying spectrum; queries are drawn in the same way. Every
query goes through every engine in turn, one thread each, so that what else the machine does
strikes all alike; processor time (of all threads) says more on a busy machine. `numpy` and `lance`
are what `clip-vit search` uses below and above 200,000 pictures, on a table in --folder, which is
kept for the next run. Recall is the share of the true ten nearest. Filters let a tenth and a
thousandth of the pictures through.
"""

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pyarrow as pa

from modeling_clip_vit.search.approximate import LargeTable, prepare_large
from modeling_clip_vit.search.engine import cosines, nearest
from modeling_clip_vit.search.filters import Compare, Condition
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.schema import table_schema
from modeling_clip_vit.search.settings import IndexModel
from modeling_clip_vit.search.snapshot import read_table

TOP = 10
TIMES = ("p10_ms", "p50_ms", "p99_ms", "cpu_ms")
#: What an engine answers: places of the nearest to a query, under a filter or none.
Engine = Callable[[np.ndarray, str | None], np.ndarray]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--engines", nargs="+", default=["numpy", "lance", "faiss-flat", "usearch"])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "engines")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    place = options.folder / f"{options.count}x{options.size}"
    index, vectors = open_or_make(place, options.count, options.size)
    queries = draw(options.queries, options.size, seed=1)
    filters = {None: np.ones(len(vectors), bool)}
    filters |= {"10 %": np.arange(len(vectors)) % 10 == 3}
    filters |= {"0.1 %": np.arange(len(vectors)) % 1000 == 3}
    expected = {name: true_nearest(vectors, queries, mask) for name, mask in filters.items()}
    engines: dict[str, Engine] = {}
    results: dict[str, dict] = {}
    for name in options.engines:
        started, cpu = time.perf_counter(), time.process_time()
        engines[name], megabytes = BUILDERS[name](index, vectors, filters)
        results[name] = {
            "build_seconds": time.perf_counter() - started,
            "build_cpu_seconds": time.process_time() - cpu,
            "megabytes": megabytes,
        }
        print(f"{name}: built in {results[name]['build_seconds']:.1f} s", flush=True)
    for filter in filters:
        measure(engines, queries, filter, expected[filter], results)
    show(results)
    results["adding"] = measure_adding(index, options.count, options.size)
    print(results["adding"])
    if options.json:
        options.json.write_text(json.dumps(results, indent=2), encoding="utf-8")


def draw(count: int, size: int, seed: int) -> np.ndarray:
    """Vectors of length 1 around centres, (count, size)."""
    spectrum = 1 / np.sqrt(1 + np.arange(size) / 16)
    spectrum = (spectrum / np.sqrt((spectrum**2).mean())).astype(np.float32)
    centres = np.random.default_rng(0).standard_normal((20_000, size), np.float32) * spectrum
    generator = np.random.default_rng(seed + 1)
    parts = []
    for start in range(0, count, 20_000):
        rows = min(20_000, count - start)
        noise = generator.standard_normal((rows, size), np.float32) * spectrum
        drawn = centres[generator.integers(0, len(centres), rows)] + 0.7 * noise
        parts.append(drawn / np.linalg.norm(drawn, axis=1, keepdims=True))
    return np.concatenate(parts)


def open_or_make(place: Path, count: int, size: int) -> tuple[PictureIndex, np.ndarray]:
    """An index of made vectors, and the vectors in the order of their ids."""
    if (place / "index.json").is_file():
        return PictureIndex.open(place), np.load(place / "made.npy", mmap_mode="r")
    place.mkdir(parents=True, exist_ok=True)
    vectors = draw(count, size, seed=0)
    np.save(place / "made.npy", vectors)
    with tempfile.TemporaryDirectory() as empty:
        model = IndexModel("made", "0", size, 10.0, None, 32)
        index = PictureIndex.create(place, model, Path(empty))
    for start in range(0, count, 50_000):
        index.table.add(made_rows(vectors[start : start + 50_000], start, size))
    return index, np.load(place / "made.npy", mmap_mode="r")


def made_rows(vectors: np.ndarray, first: int, size: int) -> pa.Table:
    """Rows of a table of pictures, most columns without a value."""
    numbers = range(first, first + len(vectors))
    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    columns = {
        "id": [str(n) for n in numbers],
        "path": [f"{n % 1000}/{n}.jpg" for n in numbers],
        "sha256": [hashlib.sha256(str(n).encode()).hexdigest() for n in numbers],
        "camera": [f"camera {n % 10}" for n in numbers],
        "width": [n % 1000 for n in numbers],
        "vector": pa.FixedSizeListArray.from_arrays(flat, size),
    }
    schema = table_schema(size)
    arrays = []
    for field in schema:
        values = columns.get(field.name)
        if values is None:
            arrays.append(pa.nulls(len(vectors), field.type))
        else:
            arrays.append(values if isinstance(values, pa.Array) else pa.array(values, field.type))
    return pa.Table.from_arrays(arrays, schema=schema)


def true_nearest(vectors: np.ndarray, queries: np.ndarray, mask: np.ndarray) -> list[set[int]]:
    """Places of the ten nearest of each query."""
    best_scores = np.zeros((len(queries), 0), np.float32)
    best = np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(vectors), 50_000):
        places = start + np.flatnonzero(mask[start : start + 50_000])
        scores = np.concatenate([best_scores, queries @ vectors[places].T], axis=1)
        found = np.concatenate([best, np.broadcast_to(places, (len(queries), len(places)))], axis=1)
        order = np.argpartition(-scores, TOP - 1, axis=1)[:, :TOP]
        best_scores = np.take_along_axis(scores, order, axis=1)
        best = np.take_along_axis(found, order, axis=1)
    return [set(row.tolist()) for row in best]


def condition_of(filter: str | None) -> Condition | None:
    """The filter as a condition on columns of the table."""
    conditions = {"10 %": Compare("camera", "==", "camera 3"), "0.1 %": Compare("width", "==", 3)}
    return None if filter is None else conditions[filter]


def build_numpy(index, vectors, filters):
    snapshot = read_table(index.table, vectors.shape[1])
    order = np.array(snapshot.rows["id"].to_pylist()).astype(np.int64)
    allowed = {name: np.flatnonzero(mask[order]) for name, mask in filters.items()}

    def run(query, filter):
        if filter is None:
            return order[nearest(cosines(snapshot.vectors, query), TOP)]
        places = allowed[filter]
        few = len(places) * 4 < len(order)
        if few:
            scores = cosines(snapshot.vectors[places], query)
        else:
            scores = cosines(snapshot.vectors, query)[places]
        return order[places[nearest(scores, TOP)]]

    return run, snapshot.vectors.nbytes / 1e6


def build_lance(index, vectors, filters):
    prepare_large(index, draw(100, vectors.shape[1], seed=2))
    large = LargeTable(index, index.database.open_table("pictures"))
    print(large.tuning)

    def run(query, filter):
        rows, _, _, _ = large.search(query, TOP, condition_of(filter))
        return np.array([int(row["id"]) for row in rows])

    folder = index.place.folder / "pictures.lance" / "_indices"
    return run, sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def build_faiss(factory: str, prepare: Callable):
    def build(index, vectors, filters):
        import faiss

        faiss.omp_set_num_threads(1)
        engine = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        if not engine.is_trained:
            engine.train(np.ascontiguousarray(vectors[:: max(1, len(vectors) // 100_000)]))
        for start in range(0, len(vectors), 50_000):
            engine.add(np.ascontiguousarray(vectors[start : start + 50_000]))
        selectors = {
            name: None if name is None else faiss.IDSelectorBatch(np.flatnonzero(mask))
            for name, mask in filters.items()
        }
        parameters = {name: prepare(faiss, selectors[name]) for name in filters}

        def run(query, filter):
            return engine.search(query[None], TOP, params=parameters[filter])[1][0]

        return run, len(faiss.serialize_index(engine)) / 1e6

    return build


def build_usearch(index, vectors, filters):
    from usearch.index import Index

    engine = Index(ndim=vectors.shape[1], metric="ip", dtype="i8", expansion_search=256)
    for start in range(0, len(vectors), 50_000):
        part = vectors[start : start + 50_000]
        engine.add(np.arange(start, start + len(part)), np.ascontiguousarray(part), threads=1)

    def run(query, filter):
        if filter is not None:
            return np.zeros(0, np.int64)  # it has no filters in Python
        return engine.search(query, TOP, threads=1).keys

    return run, engine.memory_usage / 1e6


BUILDERS = {
    "numpy": build_numpy,
    "lance": build_lance,
    "faiss-flat": build_faiss("Flat", lambda faiss, it: faiss.SearchParameters(sel=it)),
    "faiss-ivf": build_faiss(
        "IVF1024,SQ8", lambda faiss, it: faiss.SearchParametersIVF(sel=it, nprobe=192)
    ),
    "faiss-hnsw": build_faiss(
        "HNSW32,SQ8", lambda faiss, it: faiss.SearchParametersHNSW(sel=it, efSearch=256)
    ),
    "usearch": build_usearch,
}


def measure(engines, queries, filter, expected, results):
    """Send every query through every engine in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    cpu: dict[str, list[float]] = {name: [] for name in engines}
    found = dict.fromkeys(engines, 0)
    for engine in engines.values():
        engine(queries[0], filter)
    for query, places in zip(queries, expected, strict=True):
        for name, engine in engines.items():
            started, processor = time.perf_counter(), time.process_time()
            answer = engine(query, filter)
            seconds[name].append(time.perf_counter() - started)
            cpu[name].append(time.process_time() - processor)
            found[name] += len(places & set(answer.tolist()))
    for name, times in seconds.items():
        results[name][f"filter {filter}" if filter else "all"] = {
            "recall": found[name] / (TOP * len(queries)),
            **{f"p{q}_ms": float(np.percentile(times, q)) * 1e3 for q in (10, 50, 99)},
            "cpu_ms": float(np.median(cpu[name])) * 1e3,
        }


def show(results):
    """Print a table."""
    print("| engine | build s | MB | searched | recall@10 | p10 | p50 | p99 ms | cpu ms |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for name, facts in results.items():
        for searched in ("all", "filter 10 %", "filter 0.1 %"):
            it = facts[searched]
            if name == "usearch" and searched != "all":
                continue
            times = " | ".join(f"{it[field]:.1f}" for field in TIMES)
            head = f"| {name} | {facts['build_seconds']:.0f} | {facts['megabytes']:.0f} |"
            print(f"{head} {searched} | {it['recall']:.3f} | {times} |")


def measure_adding(index: PictureIndex, count: int, size: int) -> dict[str, float]:
    """Seconds to add 10,000 pictures, and until the first search finds one of them."""
    new = draw(10_000, size, seed=3)
    table = index.database.open_table("pictures")
    rows = made_rows(new, count, size)
    started = time.perf_counter()
    table.add(rows)
    added = time.perf_counter()
    if count > 200_000:
        hits, _, _, _ = LargeTable(index, index.database.open_table("pictures")).search(
            new[0], 1, None
        )
    else:
        snapshot = read_table(index.database.open_table("pictures"), size)
        best = nearest(cosines(snapshot.vectors, new[0]), 1)
        hits = snapshot.rows.slice(int(best[0]), 1).to_pylist()
    assert hits[0]["id"] == str(count)
    found = time.perf_counter()
    table.delete(f"CAST(id AS BIGINT) >= {count}")
    return {"adding_seconds": added - started, "found_after_seconds": found - added}


if __name__ == "__main__":
    main()
