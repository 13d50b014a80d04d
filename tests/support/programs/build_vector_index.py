"""Put rows into a large index and build its vector index, again and again, until killed.

Usage: build_vector_index.py INDEX
"""

import sys

import numpy as np

from modeling_clip_vit.search.approximate import build_vector_index
from modeling_clip_vit.search.index import PictureIndex
from modeling_clip_vit.search.shards import make_table
from modeling_clip_vit.search.state import upsert

index = PictureIndex.open(sys.argv[1])
rng = np.random.default_rng()
while True:
    vectors = rng.standard_normal((500, index.settings.model.embedding_size)).astype(np.float32)
    names = [f"{number}.png" for number in rng.integers(0, 5000, 500)]
    names = list(dict.fromkeys(names))
    rows = [{"id": name, "path": name, "root": "/", "name": name, "size": 1} for name in names]
    upsert(index.table, make_table(rows, list(vectors[: len(names)]), index.schema))
    if index.table.count_rows() > 2000:
        build_vector_index(index.table, 4000)
        index.table.optimize()
