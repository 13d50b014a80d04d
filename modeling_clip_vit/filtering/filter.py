"""Filter a dataset: read it, decide, read it again and write what is kept."""

import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..data.columns import check_columns, choose_image_column, choose_texts
from ..data.errors import DataError
from ..data.sources import Shards, open_shards, peek_kinds
from ..inference.loading import Encoder
from ..search.engine import MOST_EXACT
from ..utils.ahead import batched, map_ahead
from ..utils.folders import check_new, new_folder, saving
from .facts import FactWriter
from .options import EMBEDDED_REASONS, FilterOptions
from .pairs import PairReader, read_rows
from .rules import PairRules, decide
from .writing import (
    DatasetWriter,
    describe_counts,
    kept_rows,
    new_features,
    write_card,
    write_dropped,
    write_kept,
)


def filter_dataset(
    encoder: Encoder | None,
    dataset: str,
    output: Path,
    options: FilterOptions,
    record: Mapping[str, Any] | None = None,
) -> np.ndarray:
    """Write the rows of a dataset that meet the conditions as a new one.

    Args:
        encoder: scores the pairs; None for none.
        dataset: as for training.
        output: the new folder.
        options: the conditions.
        record: what else the dataset card says of the run.

    Returns:
        The code of each row's reason, see `rules.CODES`; 0 is kept.

    Raises:
        UserError: the dataset cannot be read, no row is kept, or the folder cannot be written.
    """
    if encoder is None:
        options.check_without_model()
    check_new(output)
    rules = PairRules(options)
    shards = open_shards(dataset, options.split, image_column=options.image_column)
    image_column, caption_columns = choose_columns(shards, dataset, options)
    with (
        saving(repr(str(output)), "nothing was written"),
        new_folder(output) as partial,
    ):
        work = partial / "work"
        work.mkdir()
        writer = read_facts(shards, image_column, caption_columns, encoder, rules, work)
        facts, vectors = writer.close()
        codes, originals = decide(facts, vectors, options, usable_reasons(options, len(facts)))
        counts = describe_counts(codes)
        if not (codes == 0).any():
            raise DataError(f"no row of {dataset!r} meets the conditions: {counts}")
        features = new_features(writer.columns, image_column, shards, encoder is not None)
        dataset_writer = DatasetWriter(partial / "data", options.split, features)
        written = write_kept(
            shards,
            dataset_writer,
            kept_rows(writer.table, codes),
            image_column,
            options.copy_images,
        )
        if written != (codes == 0).sum():
            raise DataError(f"{dataset!r} has changed while it was filtered: filter it again")
        write_dropped(partial / "dropped.csv", writer.table, codes, originals)
        said = {**(record or {}), "dataset": dataset, **asdict(options)}
        write_card(partial / "README.md", options.split, said, counts)
        del facts, vectors  # a mapped file cannot be removed everywhere
        shutil.rmtree(work)
    return codes


def choose_columns(shards: Shards, path: str, options: FilterOptions) -> tuple[str, list[str]]:
    """The columns of the images and of the captions.

    Raises:
        DataError: there is no row, no such column, or the columns cannot be guessed.
    """
    kinds = peek_kinds(shards)
    if not kinds:
        raise DataError(f"no row of {path!r} can be read")
    image_column = options.image_column or choose_image_column(kinds, path)
    captions = options.caption_columns or choose_texts(kinds, image_column, path)[0]
    if not captions:
        raise DataError(
            f"{path!r} has classes and no captions: set caption_columns; the column of classes "
            "counts as one of their names"
        )
    check_columns(list(kinds), [image_column, *captions], path)
    return image_column, captions


def read_facts(
    shards: Shards,
    image_column: str,
    caption_columns: list[str],
    encoder: Encoder | None,
    rules: PairRules,
    work: Path,
) -> FactWriter:
    """Read all rows once, score them and note what decides."""
    options = rules.options
    processor: Any = encoder.processor if encoder is not None else None
    reader = PairReader(
        image_column,
        caption_columns,
        prepare=getattr(processor, "image_processor", processor),
        # As `clip-vit index` does: fine enough for the model, and much faster for large JPEGs.
        least_side=2 * encoder.image_size if encoder is not None else 0,
        has_hashes=options.drop_duplicates,
    )
    writer = FactWriter(work, rules, encoder, options.compares_embeddings)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        pairs = map_ahead(pool, reader, read_rows(shards), options.batch_size)
        for batch in batched(pairs, options.batch_size):
            writer.add(batch)
    return writer


def usable_reasons(options: FilterOptions, num_rows: int) -> list[str]:
    """What makes images duplicates; with many rows, only what does not compare all pairs."""
    if num_rows <= MOST_EXACT or not options.compares_embeddings:
        return options.reasons
    reasons = [reason for reason in options.reasons if reason not in EMBEDDED_REASONS]
    print(
        f"all pairs are only compared among up to {MOST_EXACT:,} rows, and there are "
        f"{num_rows:,}: looking for equal bytes and pixels alone",
        file=sys.stderr,
    )
    return reasons
