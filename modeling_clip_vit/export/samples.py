"""Inputs to calibrate and check an export with: images and captions of a dataset."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ..data.columns import check_columns, choose_image_column, column_kinds, find_caption_columns
from ..data.decoding import BadImageError, decode_image
from ..data.errors import DataError
from ..data.sources import open_dataset
from ..inference.embedding import text_options
from ..runtimes.runtime import Inputs
from .parts import Shapes


def read_calibration_samples(
    path: str,
    processor: Any,
    shapes: Shapes,
    kinds: tuple[str, ...],
    count: int,
    image_column: str | None,
) -> list[Inputs]:
    """Prepared images and captions, spread evenly over the first split of a dataset.

    Args:
        path: a folder or the id of a dataset on the Hub.
        processor: the checkpoint's.
        shapes: the sizes of its model.
        kinds: `image`, `text` or both.
        count: number of samples; fewer if the dataset has fewer captions.
        image_column: column with the images; None guesses it from names and types. The caption
            columns are always guessed, and take turns.

    Returns:
        Samples with the inputs of images (1, ...), input_ids and attention_mask (1, L).

    Raises:
        DataError: there is no such dataset or column, or no image can be decoded.
    """
    rows = next(iter(open_dataset(path, image_column).values()))
    kinds_by_column = column_kinds(rows.features)
    image_column = image_column or choose_image_column(kinds_by_column, path)
    columns = find_caption_columns(kinds_by_column, image_column)
    if "image" in kinds:
        check_columns(rows.column_names, [image_column], path)
    if "text" in kinds and not columns:
        raise DataError(
            f"{path!r} has no column that is named like captions, and a text tower is calibrated "
            f"with them: it has {', '.join(rows.column_names)}"
        )
    samples, last_problem = [], "it has no rows"
    for row, turn in choose_rows(len(rows), max(1, len(columns)), count):
        try:
            samples.append(
                prepare_sample(rows[row], processor, shapes, kinds, image_column, columns, turn)
            )
        except BadImageError as error:
            last_problem = f"row {row}: {error}"
    if not samples:
        raise DataError(f"no image of {path!r} can be used for calibration: {last_problem}")
    return samples


def choose_rows(num_rows: int, num_columns: int, count: int) -> list[tuple[int, int]]:
    """Choose evenly spaced rows and a caption of each; with few rows, each with several captions.

    Returns:
        `count` pairs of a row and the number of a caption column, or fewer if there are no more.
    """
    places = np.linspace(0, num_rows - 1, min(count, num_rows)).astype(int).tolist()
    rounds = [
        (row, (turn + shift) % num_columns)
        for shift in range(num_columns)
        for turn, row in enumerate(places)
    ]
    return rounds[:count]


def prepare_sample(
    row: Mapping[str, Any],
    processor: Any,
    shapes: Shapes,
    kinds: tuple[str, ...],
    image_column: str,
    columns: list[str],
    turn: int,
) -> Inputs:
    """One row as the inputs of a model.

    Raises:
        BadImageError: its image cannot be decoded.
    """
    inputs: Inputs = {}
    if "image" in kinds:
        image = decode_image(row[image_column])
        prepared = processor(images=[image], return_tensors="pt")
        inputs |= {name: torch.as_tensor(prepared[name]) for name in shapes.image_inputs}
        # The mask of an image processor is int32.
        inputs |= {name: inputs[name].long() for name in shapes.image_inputs[1:]}
    if "text" in kinds:
        caption = row[columns[turn]]
        text = caption[0] if isinstance(caption, list) and caption else caption
        tokens = processor.tokenizer(
            [str(text or "")],
            return_tensors="pt",
            **text_options(not shapes.has_mask, shapes.max_text_length),
        )
        names = ("input_ids", "attention_mask") if shapes.has_mask else ("input_ids",)
        inputs |= {name: tokens[name] for name in names}
    return inputs
