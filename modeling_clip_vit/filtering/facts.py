"""The first reading of a dataset: score every pair, and note what conditions compare.

What is noted goes to files, and only numbers are kept in memory: some 100 bytes a row.

Shape legend: `B` rows of a batch, `N` rows, `T` captions of a batch, `P` projection.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import BatchFeature

from ..data.sources.materialize import Column
from ..inference.embedding import check_finite
from ..inference.loading import Encoder
from .pairs import Pair
from .rules import CODES, PairRules

#: What is noted of each row.
SCHEMA = pa.schema(
    {
        "shard": pa.int32(),
        "number": pa.int64(),
        "name": pa.string(),
        "reason": pa.uint8(),
        "detail": pa.string(),
        "score": pa.float32(),
        "width": pa.int32(),
        "height": pa.int32(),
        "language": pa.string(),
        "caption": pa.string(),
        "sha256": pa.binary(),
        "pixel_hash": pa.binary(),
        "perceptual_hash": pa.uint64(),
    }
)
#: What decides; the rest is only read again to be listed.
DECIDING = ["reason", "score", "width", "height"]
HASHES = ["sha256", "pixel_hash", "perceptual_hash"]


class FactWriter:
    """Notes what is known of pairs, a batch at a time.

    Args:
        folder: of the files.
        rules: what a pair must meet by itself.
        encoder: scores pairs; None to score none.
        keeps_vectors: whether embeddings of images are compared later.
    """

    def __init__(
        self, folder: Path, rules: PairRules, encoder: Encoder | None, keeps_vectors: bool
    ):
        self.rules, self.encoder = rules, encoder
        self.table, self.vectors = folder / "facts.parquet", folder / "vectors"
        self.keeps_vectors = keeps_vectors
        self.writer = pq.ParquetWriter(self.table, SCHEMA)
        self.width, self.num_rows = 0, 0
        #: Column -> what its values are, in every row that can be read.
        self.columns: dict[str, Column] = {}

    def add(self, pairs: Sequence[Pair]):
        """Score pairs and note them."""
        scores = np.full(len(pairs), np.nan, np.float32)
        reasons = [self.rules.reason(pair) for pair in pairs]
        # A pair that is dropped anyway is not embedded.
        places = [place for place, reason in enumerate(reasons) if not reason]
        if self.encoder is not None and places:
            chosen = [pairs[place] for place in places]
            images_BP = embed_images(self.encoder, chosen)
            scores[places] = score(self.encoder, images_BP, chosen).numpy()
            if self.keeps_vectors:
                self.add_vectors(images_BP.numpy(), places, len(pairs))
        elif self.keeps_vectors:
            self.add_vectors(np.zeros((0, self.width), np.float32), [], len(pairs))
        for pair in pairs:
            for name, value in pair.row.columns.items() if pair.row else ():
                self.columns.setdefault(name, Column()).see(value)
        rows = [
            self.describe(pair, reason, float(value))
            for pair, reason, value in zip(pairs, reasons, scores, strict=True)
        ]
        self.writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))

    def describe(self, pair: Pair, reason: str, score: float) -> dict:
        """What is noted of a pair."""
        caption = pair.captions[0] if pair.captions else None
        has_language = reason == "language" and self.rules.languages is not None
        return {
            "shard": pair.shard,
            "number": pair.number,
            "name": pair.name,
            "reason": CODES.get(reason, 0),
            "detail": pair.error or None,
            "score": score,
            "width": pair.width,
            "height": pair.height,
            "language": self.rules.worst_language(pair) if has_language else None,
            "caption": caption,
            "sha256": pair.sha256,
            "pixel_hash": pair.pixel_hash,
            "perceptual_hash": pair.perceptual_hash,
        }

    def add_vectors(self, images_BP: np.ndarray, places: list[int], count: int):
        """Append the embeddings of a batch to the file, with zeros for pairs that have none."""
        if len(places) and not self.width:
            self.width = images_BP.shape[1]
            # Batches before the first embedding, whose width was not known.
            self.append(np.zeros((self.num_rows, self.width), np.float32))
        if self.width:
            rows_BP = np.zeros((count, self.width), np.float32)
            rows_BP[places] = images_BP
            self.append(rows_BP)
        self.num_rows += count

    def append(self, rows_BP: np.ndarray):
        """Append embeddings to the file."""
        with self.vectors.open("ab") as file:
            rows_BP.tofile(file)

    def close(self) -> tuple[pa.Table, np.ndarray]:
        """What decides of each row, and the embeddings, (N, P) in a file; P is 0 without any."""
        self.writer.close()
        columns = DECIDING + (HASHES if self.rules.options.drop_duplicates else [])
        facts = pq.read_table(self.table, columns=columns).combine_chunks()
        if not self.width:
            return facts, np.zeros((facts.num_rows, 0), np.float32)
        shape = (facts.num_rows, self.width)
        return facts, np.memmap(self.vectors, np.float32, "r", shape=shape)


def embed_images(encoder: Encoder, pairs: Sequence[Pair]) -> torch.Tensor:
    """Embed the images of pairs: float32 (B, P) of length 1."""
    inputs = [pair.inputs for pair in pairs if pair.inputs is not None]
    merged = {name: torch.cat([one[name] for one in inputs]) for name in inputs[0]}
    return check_finite(encoder.encode_inputs(BatchFeature(merged)), "images")


def score(encoder: Encoder, images_BP: torch.Tensor, pairs: Sequence[Pair]) -> torch.Tensor:
    """The mean cosine of each image with its captions, (B,)."""
    texts = list(dict.fromkeys(text for pair in pairs for text in pair.captions))
    places = {text: place for place, text in enumerate(texts)}
    texts_TP = check_finite(encoder.encode_text(texts), "captions")
    return torch.stack(
        [
            (texts_TP[[places[text] for text in pair.captions]] @ image_P).mean()
            for image_P, pair in zip(images_BP, pairs, strict=True)
        ]
    )
