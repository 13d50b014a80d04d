"""Write a dataset with smaller images: read its columns, then resize image by image."""

import csv
import io
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.columns import check_columns, choose_image_column
from ..data.decoding import decode_image
from ..data.errors import DataError, check_option
from ..data.images import resize_part, to_tensor
from ..data.rows import Row, SkippedSample
from ..data.sources import Shards, open_shards, peek_kinds
from ..data.sources.materialize import Column
from ..utils.ahead import map_ahead
from ..utils.folders import check_new, new_folder, saving
from .pairs import read_bytes, read_rows
from .writing import DatasetWriter, known_features, new_features, new_row, write_card

#: Rows that are resized ahead of the one that is written, for each thread.
AHEAD = 4


@dataclass
class ResizeOptions:
    """How images are resized, and how the dataset is read.

    Args:
        split: split to write.
        image_column: column with the images; None guesses it.
        size: length in pixels of the shorter side of an image. Smaller images are copied as they
            are; the others become JPEGs.
        quality: of the JPEGs, from 1 to 100.
        file_megabytes: size of a file of the new dataset in MB.
    """

    split: str = "train"
    image_column: str | None = None
    size: int = 256
    quality: int = 95
    file_megabytes: int = 512

    def __post_init__(self):
        for name in ("size", "file_megabytes"):
            check_option(getattr(self, name) >= 1, self, name, "at least 1")
        check_option(1 <= self.quality <= 100, self, "quality", "from 1 to 100")


def resize_dataset(dataset: str, output: Path, options: ResizeOptions) -> tuple[int, int]:
    """Write the rows of a dataset, their images resized, as a new dataset.

    Args:
        dataset: as for training.
        output: the new folder.
        options: how.

    Returns:
        How many rows were written, and how many could not be read.

    Raises:
        UserError: the dataset cannot be read, no row of it can, or the folder cannot be written.
    """
    check_new(output)
    shards = open_shards(dataset, options.split, image_column=options.image_column)
    kinds = peek_kinds(shards)
    if not kinds:
        raise DataError(f"no row of {dataset!r} can be read")
    image_column = options.image_column or choose_image_column(kinds, dataset)
    check_columns(list(kinds), [image_column], dataset)
    features = new_features(find_columns(shards), image_column, shards, is_scored=False)
    with saving(repr(str(output)), "nothing was written"), new_folder(output) as partial:
        file_bytes = options.file_megabytes * 10**6
        writer = DatasetWriter(partial / "data", options.split, features, file_bytes)
        skipped: list[SkippedSample] = []
        for resized in resize_rows(shards, RowResizer(shards, writer, image_column, options)):
            if isinstance(resized, SkippedSample):
                skipped.append(resized)
            else:
                writer.add(resized)
        writer.close()
        if not writer.num_rows:
            first = f"{skipped[0].name}: {skipped[0].reason}" if skipped else "there is none"
            raise DataError(f"no image of {dataset!r} can be decoded; the first: {first}")
        counts = describe_counts(writer.num_rows, len(skipped))
        write_skipped(partial / "skipped.csv", skipped)
        record = {"dataset": dataset, **asdict(options)}
        write_card(
            *(partial / "README.md", options.split, record, counts),
            title="What clip-vit shard wrote",
            remark="The rows that could not be read are in skipped.csv.",
        )
    return writer.num_rows, len(skipped)


def find_columns(shards: Shards) -> dict[str, Column]:
    """The columns of all rows, with what their values are where the files do not say it."""
    columns = {name: Column() for name in known_features(shards)}
    if columns:
        return columns
    for _, _, row in read_rows(shards):
        for name, value in row.columns.items() if isinstance(row, Row) else ():
            columns.setdefault(name, Column()).see(value)
    return columns


class RowResizer:
    """Makes the rows of the new dataset; safe to call from several threads.

    Args:
        shards: of the old one.
        writer: of the new one, for its columns.
        image_column: of the images.
        options: how they are resized.
    """

    def __init__(
        self, shards: Shards, writer: DatasetWriter, image_column: str, options: ResizeOptions
    ):
        self.typed = known_features(shards).keys()
        self.features, self.image_column, self.options = writer.features, image_column, options

    def __call__(
        self, place: tuple[int, int, Row | SkippedSample]
    ) -> dict[str, Any] | SkippedSample:
        """The new row, or why there is none."""
        row = place[2]
        if isinstance(row, SkippedSample):
            return row
        try:
            content = read_bytes(row.columns.get(self.image_column), row.folder)
            image = self.resize(content)
        except (DataError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            return SkippedSample(row.name, reason or type(error).__name__)
        name = find_name(row, self.image_column)
        # The old image is not needed, and would be read once more.
        columns = row.columns | {self.image_column: {"bytes": b"", "path": name}}
        new = new_row(
            *(replace(row, columns=columns), self.features, self.typed, self.image_column),
            copy_images=False,
        )
        is_same = image is content
        path = name if is_same else str(Path(name).with_suffix(".jpg"))
        return new | {self.image_column: {"bytes": image, "path": path}}

    def resize(self, content: bytes) -> bytes:
        """An encoded image as a JPEG with a shorter side of `size`; the same if it has no more.

        Raises:
            BadImageError: it cannot be decoded.
        """
        size = self.options.size
        # Twice as large as needed, so that it is resized once, and well.
        image = decode_image(content, least_side=2 * size)
        side = min(image.size)
        if side <= size:
            return content
        height, width = (max(1, round(length * size / side)) for length in reversed(image.size))
        whole = (0, 0, image.height, image.width)
        pixels = resize_part(to_tensor(image), whole, (height, width))
        encoded = io.BytesIO()
        small = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        small.save(encoded, "JPEG", quality=self.options.quality)
        return encoded.getvalue()


def resize_rows(shards: Shards, resizer: RowResizer) -> Iterator[dict[str, Any] | SkippedSample]:
    """The rows of the new dataset in the order of the old one, some of them made ahead."""
    threads = os.cpu_count() or 1
    with ThreadPoolExecutor(threads) as pool:
        yield from map_ahead(pool, resizer, read_rows(shards), AHEAD * threads)


def find_name(row: Row, image_column: str) -> str:
    """What an image is called in the new dataset: its file's name if it has one, else its row's."""
    image = row.columns.get(image_column)
    path = image.get("path") if isinstance(image, dict) else None
    path = image if isinstance(image, str) and len(image) < 256 else path
    return Path(path).name if path else row.name


def write_skipped(path: Path, skipped: list[SkippedSample]):
    """List the rows that could not be read, with the reason, as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(("row", "reason"))
        table.writerows((one.name, one.reason) for one in skipped)


def describe_counts(written: int, skipped: int) -> str:
    """How many rows were written, as a line of text."""
    return f"wrote {written:,} rows; {skipped:,} could not be read"
