"""The second reading of a dataset: write the rows that are kept, and list the others."""

import csv
import json
import math
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Features, Image, Value

from ..data.rows import Row
from ..data.sources import Shards
from ..data.sources.materialize import Column, cast, feature_of, kind_of_column
from .pairs import read_bytes
from .rules import CODES, REASONS

#: Column of the score in the new dataset.
SCORE = "clip_score"
#: Bytes after which a file of the new dataset ends; what is written at once; and rows of that.
FILE_BYTES, GROUP_BYTES, GROUP_ROWS = 2**29, 2**25, 128
DROPPED_COLUMNS = (
    *("row", "reason", "score", "width", "height", "language", "duplicate_of", "detail"),
    "caption",
)


def new_features(
    columns: Mapping[str, Column], image_column: str, shards: Shards, is_scored: bool
) -> Features:
    """The columns of the new dataset: those of the old one, and the score.

    Args:
        columns: what was seen of each.
        image_column: of the images.
        shards: the split.
        is_scored: whether there are scores.
    """
    known = known_features(shards)
    kinds = {name: kind_of_column(name, column) for name, column in columns.items()}
    images = {name for name in columns if kinds[name] == "image" and name not in known}
    left_out = repeated_columns(shards) - {image_column}
    features = {
        name: Image()
        if name in images | {image_column}
        else known.get(name) or feature_of(name, column)
        for name, column in columns.items()
        if name not in left_out
    }
    classes = {
        name: ClassLabel(names=names)
        for name, names in shards.class_names.items()
        if name in features
    }
    scores = {SCORE: Value("float32")} if is_scored else {}
    return Features(features | classes | scores)


def known_features(shards: Shards) -> Features:
    """The types of the columns, where the files say them: in Parquet, Arrow and on the Hub."""
    return getattr(getattr(shards, "rows", None), "features", None) or Features()


def repeated_columns(shards: Shards) -> frozenset[str]:
    """Columns that only repeat others, such as the `jpg` of a tar, which is its `image` too."""
    return getattr(getattr(shards, "source", None), "repeated_columns", frozenset())


class DatasetWriter:
    """Writes rows as Parquet files of a limited size.

    Args:
        folder: of the files.
        split: what they are called.
        features: of the rows.
        most_bytes: of images, after which a file ends.
    """

    def __init__(self, folder: Path, split: str, features: Features, most_bytes: int = FILE_BYTES):
        self.folder, self.split, self.features = folder, split, features
        self.most_bytes = most_bytes
        self.writer: pq.ParquetWriter | None = None
        self.rows: list[dict[str, Any]] = []
        self.num_files, self.num_rows, self.file_bytes, self.group_bytes = 0, 0, 0, 0
        folder.mkdir(parents=True)

    def add(self, row: dict[str, Any]):
        """Write a row, now or with the next ones."""
        self.rows.append(row)
        self.num_rows += 1
        self.group_bytes += sum(
            len(value["bytes"] or b"") for value in row.values() if is_image(value)
        )
        if self.group_bytes > GROUP_BYTES or len(self.rows) == GROUP_ROWS:
            self.flush()

    def flush(self):
        """Write the rows that wait; end a file that is large enough."""
        if not self.rows:
            return
        schema = self.features.arrow_schema
        if self.writer is None:
            path = self.folder / f"{self.split}-{self.num_files:05}.parquet"
            self.writer = pq.ParquetWriter(path, schema)
            self.num_files += 1
        self.writer.write_table(pa.Table.from_pylist(self.rows, schema=schema))
        self.file_bytes += self.group_bytes
        self.rows, self.group_bytes = [], 0
        if self.file_bytes > self.most_bytes:
            self.close()

    def close(self):
        """Write what is left, and end the file."""
        self.flush()
        if self.writer is not None:
            self.writer.close()
        self.writer, self.file_bytes = None, 0


def is_image(value: Any) -> bool:
    """Whether a value is an image as `datasets` has it."""
    return isinstance(value, dict) and "bytes" in value


def write_kept(
    shards: Shards,
    writer: DatasetWriter,
    kept: Iterator[tuple[int, dict[int, float]]],
    image_column: str,
    copy_images: bool,
) -> int:
    """Read rows again and write them; returns how many.

    Args:
        shards: of the dataset.
        writer: of the new one.
        kept: for each shard, the numbers of its rows that are kept, each with its score.
        image_column: of the images.
        copy_images: whether to copy images that are files.
    """
    typed = known_features(shards).keys()
    for shard, scores in kept:
        for number, row in shards.read(shard, 0, scores.__contains__):
            if isinstance(row, Row):
                score = scores[number]
                values = new_row(row, writer.features, typed, image_column, copy_images, score)
                writer.add(values)
    writer.close()
    return writer.num_rows


def new_row(
    row: Row,
    features: Features,
    typed: Collection[str],
    image_column: str,
    copy_images: bool,
    score: float = math.nan,
) -> dict[str, Any]:
    """A row of the new dataset, whose paths begin at the root."""
    values = {
        name: row.columns.get(name)
        if name in typed and not isinstance(kind, ClassLabel | Image)
        else cast(row, name, kind)
        for name, kind in features.items()
        if name != SCORE
    }
    image: Any = values[image_column]
    if image["bytes"] is None and image["path"]:
        path = Path(row.folder) / image["path"]
        image = {"bytes": None, "path": str(path.resolve())}
        if copy_images:
            image = {"bytes": read_bytes(image, ""), "path": path.name}
    values[image_column] = image
    if SCORE in features:
        values[SCORE] = score
    return values


def write_dropped(path: Path, facts: Path, codes: np.ndarray, originals: np.ndarray):
    """List the rows that are dropped, with the reason, as CSV.

    Args:
        path: to write to.
        facts: what is known of all rows.
        codes, originals: see `rules.decide`.
    """
    names = {code: name for name, code in CODES.items()}
    file_of_facts = pq.ParquetFile(facts)
    titles = name_rows(file_of_facts, set(originals[originals >= 0].tolist()))
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, DROPPED_COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        start = 0
        for batch in file_of_facts.iter_batches():
            rows = batch.to_pylist()
            for place, row in enumerate(rows, start):
                if codes[place]:
                    score = "" if np.isnan(row["score"]) else f"{row['score']:.6f}"
                    facts_of_row = {
                        "row": row["name"],
                        "reason": names[codes[place]],
                        "score": score,
                        "duplicate_of": titles.get(int(originals[place]), ""),
                    }
                    table.writerow(row | facts_of_row)
            start += len(rows)


def name_rows(facts: pq.ParquetFile, places: set[int]) -> dict[int, str]:
    """The names of some rows."""
    names, start = {}, 0
    for batch in facts.iter_batches(columns=["name"]):
        values = batch["name"]
        inside = (place for place in range(start, start + len(values)) if place in places)
        names.update({place: values[place - start].as_py() for place in inside})
        start += len(values)
    return names


def kept_rows(facts: Path, codes: np.ndarray) -> Iterator[tuple[int, dict[int, float]]]:
    """For each shard, the numbers of its rows that are kept, each with its score."""
    scores: dict[int, float] = {}
    shard, start = -1, 0
    for batch in pq.ParquetFile(facts).iter_batches(columns=["shard", "number", "score"]):
        for place, row in enumerate(batch.to_pylist(), start):
            if row["shard"] != shard:
                if scores:
                    yield shard, scores
                shard, scores = row["shard"], {}
            if not codes[place]:
                scores[row["number"]] = row["score"]
        start += len(batch)
    if scores:
        yield shard, scores


def count_reasons(codes: np.ndarray) -> dict[str, int]:
    """Reason -> how many rows are dropped for it; those without any are left out."""
    counts = {name: int((codes == code).sum()) for name, code in CODES.items()}
    return {name: count for name, count in counts.items() if count}


def describe_counts(codes: np.ndarray) -> str:
    """How many rows are kept, and how many are dropped for which reason, as lines of text."""
    counts, total = count_reasons(codes), len(codes)
    kept = total - sum(counts.values())
    share = f" ({100 * kept / total:.1f} %)" if total else ""
    lines = [f"kept {kept:,} of {total:,} rows{share}"]
    width = len(f"{total:,}")
    lines += [f"  {count:>{width},} {name}: {REASONS[name]}" for name, count in counts.items()]
    return "\n".join(lines)


def write_card(
    path: Path,
    split: str,
    record: dict[str, Any],
    counts: str,
    title: str = "What clip-vit filter kept",
    remark: str = "The other rows are in dropped.csv.",
):
    """Write the dataset card, which says where the files are and what was done."""
    options = json.dumps(record, indent=2, ensure_ascii=False)
    lines = [
        *("---", "configs:", "- config_name: default", "  data_files:", f"  - split: {split}"),
        *(f"    path: data/{split}-*", "---", "", f"# {title}", ""),
        *("```text", counts, "```", "", remark, ""),
        *("```json", options, "```", ""),
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
