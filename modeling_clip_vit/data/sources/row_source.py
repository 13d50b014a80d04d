"""Sources whose rows are read here, one after the other."""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset

from ..columns import check_columns
from ..errors import DataError
from ..files.listing import stamps
from ..rows import Row, SkippedSample
from .materialize import materialize
from .source import NumberedRows, Shards, Splits, Wanted, refuse_missing_split

logger = logging.getLogger(__name__)


class RowSource(ABC):
    """A source that reads its rows in order, shard by shard.

    Streams read the shards as they are. For random access, the rows are written to Arrow in the
    cache of `datasets`, once for each state of the files.

    Args:
        path: what to call the dataset in a message.
        shards: split -> its shards, in whatever form `read` takes; paths of files, for `state`.
        image_column: column of images; None to guess it.
    """

    #: Column of class labels -> the names of its classes, where they are known beforehand.
    class_names: dict[str, list[str]]
    #: Columns that only repeat others, and are left out of a table.
    repeated_columns: frozenset[str] = frozenset()

    def __init__(
        self, path: str, shards: Mapping[str, Sequence[Any]], image_column: str | None = None
    ):
        self.path, self.shards, self.image_column = path, shards, image_column
        self.class_names = {}

    @abstractmethod
    def read(self, shard: Any, wanted: Wanted) -> NumberedRows:
        """The wanted rows of a shard; one that cannot be read is a `SkippedSample`."""

    def state(self, split: str) -> str:
        """What changes whenever the rows of a split do: by default its files' sizes and dates."""
        return stamps(map(Path, self.shards[split]))

    def known_columns(self, split: str) -> list[str] | None:
        """The columns of a split; None if they show only when it is read."""
        return None

    def find_shards(self, split: str) -> Sequence[Any]:
        """The shards of a split.

        Raises:
            DataError: there is no such split.
        """
        refuse_missing_split(self.path, split, self.shards)
        return self.shards[split]

    def stream(self, split: str, columns: Sequence[str] = ()) -> Shards:
        """A split as the shards that it has."""
        shards = RowShards(self, self.find_shards(split))
        known = self.known_columns(split) if columns else None
        if known is not None:
            check_columns(known, columns, self.path)
        return shards

    def split_names(self) -> list[str]:
        """The names of the splits."""
        return list(self.shards)

    def load(self) -> Splits:
        """Every split as a table.

        Raises:
            DataError: a split has no row.
        """
        opened = Splits({})
        for split in self.shards:
            rows, problems = self.load_split(split)
            for problem in problems:
                logger.warning("skipped %s: %s", problem.name, problem.reason)
            opened[split], opened.problems[split] = rows, problems
        return opened

    def load_split(self, split: str) -> tuple[Dataset, list[SkippedSample]]:
        """One split as a table, and the rows of it that could not be read.

        Raises:
            DataError: it has no row.
        """

        def read() -> Iterator[Row | SkippedSample]:
            return self.read_split(split)

        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        state = str((kind, self.path, split, self.image_column, self.state(split)))
        types = {name: ClassLabel(names=names) for name, names in self.class_names.items()}
        try:
            return materialize(read, state, self.image_column, types)
        except DataError as error:
            if not any(True for _ in read()):
                raise DataError(f"split {split!r} of {self.path!r} is empty") from error
            raise DataError(f"{self.path!r}: {error}") from error

    def read_split(self, split: str) -> Iterator[Row | SkippedSample]:
        """All rows of a split, without the columns that repeat others."""
        for shard in self.shards[split]:
            for _, row in self.read(shard, lambda number: True):
                if isinstance(row, Row) and not self.repeated_columns.isdisjoint(row.columns):
                    kept = row.columns.keys() - self.repeated_columns
                    row.columns = {name: row.columns[name] for name in row.columns if name in kept}
                yield row


class RowShards:
    """The shards of one split of a `RowSource`."""

    def __init__(self, source: RowSource, shards: Sequence[Any]):
        self.source, self.shards = source, shards
        self.path, self.class_names = source.path, source.class_names

    def __len__(self) -> int:
        return len(self.shards)

    def read(self, shard: int, start: int, wanted: Wanted) -> NumberedRows:
        """Wanted rows of a shard with their numbers."""
        return self.source.read(self.shards[shard], wanted)
