"""What a source of data is: named splits, each as a table or as shards."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from datasets import Dataset, DatasetDict

from ..errors import DataError
from ..rows import Row, SkippedSample

#: Whether the row of a number is to be read.
Wanted = Callable[[int], bool]
#: Rows with their numbers, which count from 0 in each shard.
NumberedRows = Iterator[tuple[int, Row | SkippedSample]]


class Splits(DatasetDict):
    """The splits of a dataset as tables, and the rows of each that could not be read.

    Args:
        splits: name -> rows.
        problems: name -> the rows that could not be read.
    """

    def __init__(
        self, splits: dict[str, Dataset], problems: dict[str, list[SkippedSample]] | None = None
    ):
        super().__init__(splits)
        self.problems = problems or {}


class Shards(Protocol):
    """One split without random access: shards that can each be read from any row on."""

    #: What to call the dataset in a message.
    path: str
    #: Column of class labels -> the names of its classes, as far as they are known beforehand.
    class_names: dict[str, list[str]]

    def __len__(self) -> int: ...

    def read(self, shard: int, start: int, wanted: Wanted) -> NumberedRows:
        """Wanted rows of a shard; one that cannot be read is a `SkippedSample` with the reason.

        Args:
            shard: which one.
            start: the first row that is wanted; earlier ones need not be looked at.
            wanted: which of the others to read.
        """


class Source(Protocol):
    """A dataset, with no row read yet.

    A row says what to call it in a message (`Row.name`).
    """

    path: str

    def split_names(self) -> list[str]:
        """The names of the splits."""

    def load(self) -> Splits:
        """Every split as a table, with random access; images stay encoded.

        Raises:
            DataError: the rows cannot be read, or only as a stream.
        """

    def stream(self, split: str, columns: Sequence[str] = ()) -> Shards:
        """One split as shards.

        Args:
            split: its name.
            columns: those that are needed; none for all.

        Raises:
            DataError: there is no such split, or it is known to lack a column.
        """


def get_split(splits: DatasetDict, name: str, path: str, hint: str = "") -> Dataset:
    """One split by name.

    Args:
        splits: of the dataset.
        name: of the split.
        path: name of the dataset in messages.
        hint: how the message ends if there is no such split.

    Raises:
        DataError: there is no such split, or it is empty.
    """
    refuse_missing_split(path, name, splits, hint)
    if len(splits[name]) == 0:
        raise DataError(f"split {name!r} of {path!r} is empty")
    return splits[name]


def refuse_missing_split(path: str, name: str, splits: Iterable[str], hint: str = ""):
    """Reject a split that does not exist.

    Raises:
        DataError: the message lists those that do, and ends with the hint.
    """
    names = sorted(splits)
    if name not in names:
        raise DataError(f"{path!r} has no split {name!r}: it has {', '.join(names)}{hint}")


def get_problems(splits: DatasetDict, name: str) -> list[SkippedSample]:
    """The rows of a split that could not be read."""
    return getattr(splits, "problems", {}).get(name, [])
