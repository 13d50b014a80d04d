"""Open an image-text data set with `datasets`, and check that it holds what is asked of it."""

import re
from pathlib import Path

from datasets import Dataset, DatasetDict, load_dataset

from .errors import DataError, first_line
from .files import is_local, keep_encoded, open_local


def open_dataset(path: str, image_column: str | None = None) -> DatasetDict:
    """Open every split of a data set, its images not yet decoded.

    Args:
        path: a folder of images, of parquet, of CSV, TSV or JSON lines, of WebDataset tars, or one
            that `Dataset.save_to_disk` wrote; one such file, or a pattern of them (`data/*.csv`),
            which are then all `train`; or the id of a data set on the Hub.
        image_column: the column of images. Where it holds texts, they are paths relative to the
            files, or base64. None for a guess.

    Raises:
        DataError: there is no such data set, or it cannot be read.
    """
    here = is_local(path)
    try:
        splits = open_local(path, image_column) if here else load_dataset(path)
    except DataError:
        raise
    except Exception as error:
        hint = "" if here else f"; there is no folder of that name in {Path.cwd()}"
        reason = first_line(error.__cause__ or error)  # type: ignore[arg-type]
        # As `datasets` says it of a split without rows.
        if empty := re.search('Instruction "(.*)" corresponds to no data', reason):
            raise DataError(f"split {empty[1]!r} of {path!r} is empty") from error
        raise DataError(f"cannot open the data set {path!r}: {reason}{hint}") from error
    return DatasetDict({name: keep_encoded(split) for name, split in splits.items()})


def get_split(splits: DatasetDict, name: str, path: str, hint: str = "") -> Dataset:
    """One split by name; the hint ends the message where it is not there.

    Raises:
        DataError: there is no such split, or it is empty.
    """
    if name not in splits:
        raise DataError(f"{path!r} has no split {name!r}: it has {', '.join(sorted(splits))}{hint}")
    if len(splits[name]) == 0:
        raise DataError(f"split {name!r} of {path!r} is empty")
    return splits[name]
