"""Read the rows of files one after the other, whatever kind they are of."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from .columns import find_image_column
from .listing import METADATA, Listing
from .rows import Row, SkippedSample
from .tables import peek_columns, read_table
from .tars import IMAGE_EXTENSIONS, read_tar

#: What the column of a folder's pictures, and of paths in their metadata, is called.
IMAGE = "image"
#: And that of the classes that folders name.
LABEL = "label"


def read_file(
    kind: str, file: str, place: str, has_classes: bool = False, image_column: str | None = None
) -> Iterator[tuple[int, Row | SkippedSample]]:
    """The rows of one file with their numbers.

    Args:
        kind: `pictures`, `table` or `tars`, as `Listing.kind`.
        file: its path.
        place: the folder that names are relative to.
        has_classes: of a picture, whether its folder names its class.
        image_column: of a table, where it is known.
    """
    path = Path(file)
    if kind == "pictures":
        name = str(path.relative_to(place))
        columns = {IMAGE: {"bytes": None, "path": file}}
        if has_classes:
            columns[LABEL] = path.parent.name  # type: ignore[assignment]
        yield 0, Row(name, columns)
    elif kind == "table":
        yield from read_table_rows(path, image_column)
    else:
        for number, row in read_tar(file, lambda number: True):
            yield number, tidy_tar_row(row)


def read_table_rows(
    path: Path, image_column: str | None = None
) -> Iterator[tuple[int, Row | SkippedSample]]:
    """The rows of a table; in metadata of pictures, the column of their names is `image`."""
    given = image_column
    if path.stem.lower() == METADATA:
        kinds = peek_columns(path)
        given = image_column if image_column in kinds else find_image_column(kinds)
    is_renamed = path.stem.lower() == METADATA and given not in (None, IMAGE)
    for number, columns in read_table(path):
        name = f"{path.name}, row {number}"
        if isinstance(columns, str):
            yield number, SkippedSample(name, columns)
            continue
        if is_renamed and given in columns and IMAGE not in columns:
            columns = {IMAGE if key == given else key: value for key, value in columns.items()}
        yield number, Row(name, columns, folder=str(path.parent))


def table_columns(path: Path) -> list[str]:
    """The columns of a table, as its first rows have them."""
    names: dict[str, None] = {}
    for _, row in islice(read_table_rows(path), 100):
        if isinstance(row, Row):
            names.update(dict.fromkeys(row.columns))
    return list(names)


def tidy_tar_row(row: Row | SkippedSample) -> Row | SkippedSample:
    """A sample of a tar with its image once, not under its extension as well."""
    if isinstance(row, Row):
        kept = {n: value for n, value in row.columns.items() if n not in IMAGE_EXTENSIONS}
        return Row(row.name, kept)
    return row


def read_rows(
    kind: str,
    files: list[str],
    place: str,
    has_classes: bool = False,
    image_column: str | None = None,
) -> Iterator[Row | SkippedSample]:
    """The rows of files, one file after the other."""
    for file in files:
        for _, row in read_file(kind, file, place, has_classes, image_column):
            yield row


def class_names(listing: Listing) -> list[str]:
    """The classes that the folders of pictures name, in order; none where they name none."""
    if not listing.has_classes:
        return []
    return sorted({file.parent.name for files in listing.files.values() for file in files})
