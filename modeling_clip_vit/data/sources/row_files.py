"""Tables, tars and folders of images."""

import logging
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from datasets import Image

from ..columns import find_image_column
from ..decoding import PICTURE_SUFFIXES
from ..files.listing import METADATA, Listing, stamps, walk
from ..files.tables import peek_columns, read_table
from ..files.tars import IMAGE_EXTENSIONS, read_tar
from ..rows import Row, SkippedSample
from .row_source import RowSource
from .source import NumberedRows, Splits, Wanted

logger = logging.getLogger(__name__)

#: Column of a folder's images, and of the paths in their metadata.
IMAGE = "image"
#: Column of the classes that folders name.
LABEL = "label"
#: Rows of a file that show the columns of a table.
ROWS_TO_SEE = 100


class RowFiles(RowSource):
    """Files that are read row by row.

    Args:
        path: what to call the dataset in a message.
        listing: its files.
        image_column: column of images; None to guess it.
    """

    def __init__(self, path: str, listing: Listing, image_column: str | None = None):
        super().__init__(path, listing.files, image_column)
        self.listing = listing

    def find_shards(self, split: str) -> Sequence[Any]:
        """The shards of a split; files that were named one by one belong to any."""
        if self.listing.is_named and split not in self.shards:
            return self.shards["train"]
        return super().find_shards(split)

    def load(self) -> Splits:
        """Every split as a table; a warning names files that were left out."""
        self.listing.warn()
        return super().load()


class TarFiles(RowFiles):
    """WebDataset tars, one per shard."""

    repeated_columns = IMAGE_EXTENSIONS

    def read(self, shard: Path, wanted: Wanted) -> NumberedRows:
        """The wanted samples of a tar."""
        return read_tar(str(shard), wanted)


class TableFiles(RowFiles):
    """CSV, TSV, JSON, JSON lines, and Parquet metadata of images; one file per shard."""

    def read(self, shard: Path, wanted: Wanted) -> NumberedRows:
        """The wanted rows of a table; in metadata, the names of images are in `image`."""
        renamed = self.renamed_column(shard)
        for number, columns in read_table(shard):
            if not wanted(number):
                continue
            name = f"{shard.name}, row {number}"
            if isinstance(columns, str):
                yield number, SkippedSample(name, columns)
                continue
            if renamed in columns and IMAGE not in columns:
                columns = {IMAGE if n == renamed else n: value for n, value in columns.items()}
            yield number, Row(name, columns, folder=str(shard.parent))

    def renamed_column(self, file: Path) -> str | None:
        """The column of a metadata file that is called `image` here; None for no column."""
        if file.stem.lower() != METADATA:
            return None
        kinds = peek_columns(file)
        column = self.image_column if self.image_column in kinds else find_image_column(kinds)
        return None if column == IMAGE else column

    def known_columns(self, split: str) -> list[str]:
        """The columns of a split, as the first rows of its files have them."""
        names: dict[str, None] = {}
        for file in self.find_shards(split):
            for _, row in islice(self.read(file, lambda number: True), ROWS_TO_SEE):
                if isinstance(row, Row):
                    names.update(dict.fromkeys(row.columns))
        return list(names)

    def load(self) -> Splits:
        """Every split as a table; a warning counts images that metadata does not list."""
        opened = super().load()
        if any(file.stem.lower() == METADATA for files in self.shards.values() for file in files):
            self.warn_of_unlisted(opened)
        return opened

    def warn_of_unlisted(self, opened: Splits):
        """Warn about images next to their metadata that have no row in it."""
        listed = set()
        for rows in opened.values():
            for name, feature in rows.features.items():
                if isinstance(feature, Image):
                    listed |= {image["path"] for image in rows[name] if image and image["path"]}
        files = walk(self.listing.place)
        pictures = (file for file in files if file.suffix.lower() in PICTURE_SUFFIXES)
        unlisted = [str(file) for file in pictures if str(file) not in listed]
        if unlisted:
            logger.warning(
                "%d pictures in %s have no row in its metadata and are left out, such as %s",
                len(unlisted),
                self.listing.place,
                unlisted[0],
            )


class PictureFiles(RowFiles):
    """Image files, a fixed number per shard, with the classes that their folders name."""

    shard_size = 256

    def __init__(self, path: str, listing: Listing, image_column: str | None = None):
        super().__init__(path, listing, image_column)
        size = self.shard_size
        self.shards = {
            split: [files[start : start + size] for start in range(0, len(files), size)]
            for split, files in listing.files.items()
        }
        if listing.has_classes:
            files = [file for files in listing.files.values() for file in files]
            self.class_names = {LABEL: sorted({file.parent.name for file in files})}

    def state(self, split: str) -> str:
        """The sizes and dates of all files."""
        return stamps(self.listing.files[split])

    def read(self, shard: list[Path], wanted: Wanted) -> NumberedRows:
        """A row for each wanted file, whose content is not read yet."""
        for number, file in enumerate(shard):
            if wanted(number):
                columns: dict[str, Any] = {IMAGE: {"bytes": None, "path": str(file)}}
                if self.listing.has_classes:
                    columns[LABEL] = file.parent.name
                yield number, Row(str(file.relative_to(self.listing.place)), columns)
