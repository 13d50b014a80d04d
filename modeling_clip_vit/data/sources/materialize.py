"""Turn rows that are read one after the other into a table with random access.

The rows are read twice: first to learn which columns there are and what they hold, then to write
them as Arrow. Both results are kept in the cache of `datasets`, and found again as long as the
files do not change.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import ClassLabel, Dataset, Features, Image, List, Value
from datasets.config import HF_DATASETS_CACHE
from datasets.fingerprint import Hasher

from ...utils.folders import replaced_file
from ..columns import CAPTION_NAMES, PATH_NAMES, find_image_column
from ..errors import DataError
from ..files.places import locate_image
from ..rows import Row, SkippedSample

#: Reads all rows from the beginning.
ReadRows = Callable[[], Iterator[Row | SkippedSample]]
#: The types of values that are told apart, by name.
KINDS: dict[str, type] = {
    kind.__name__: kind for kind in (str, int, float, bool, bytes, list, dict)
}
#: Tables made of rows, and what was learned of them.
CACHE = Path(HF_DATASETS_CACHE) / "clip-vit"
#: Arrow has no larger whole numbers.
LARGEST_NUMBER = 2**63 - 1
#: Columns of these names hold texts, whatever their values look like.
TEXT_NAMES = frozenset((*CAPTION_NAMES, *PATH_NAMES))


@dataclass
class Column:
    """What was seen of a column.

    Args:
        kinds: types of its values.
        is_number: whether every text in it is a number in canonical form: `12`, but not `012`.
    """

    kinds: set[type] = field(default_factory=set)
    is_number: bool = True

    def see(self, value: Any):
        """Take a value into account."""
        if value is None:
            return
        kind = type(value)
        if kind is int and abs(value) > LARGEST_NUMBER:
            kind = str
        self.kinds.add(kind)
        if kind is str:
            self.is_number = self.is_number and is_plain_number(value)


def is_plain_number(value: Any) -> bool:
    """Whether a text is a whole number in the form that a number is written in."""
    text = str(value)
    digits = text.removeprefix("-")
    return digits.isascii() and digits.isdigit() and len(digits) < 19 and str(int(text)) == text


def materialize(
    read: ReadRows,
    state: str,
    image_column: str | None,
    types: Mapping[str, Any] | None = None,
) -> tuple[Dataset, list[SkippedSample]]:
    """A table of rows, and those that could not be read.

    Args:
        read: yields the rows; it is called twice.
        state: says whose rows they are, and changes when they do.
        image_column: the column of images; None to guess it. Texts in it are paths, relative to
            the row's folder, or base64.
        types: column -> its type, where it is known.

    Raises:
        DataError: there is no row.
    """
    columns, problems = survey(read, state)
    kinds = {name: kind_of_column(name, column) for name, column in columns.items()}
    image = image_column or find_image_column(kinds)
    features = Features(
        {
            name: Image(decode=False)
            if name == image or kinds[name] == "image"
            else feature_of(name, column)
            for name, column in columns.items()
        }
        | dict(types or {})
    )
    table = Dataset.from_generator(
        generate_rows,
        features=features,
        cache_dir=str(CACHE),
        gen_kwargs={"read": read, "features": features},
        fingerprint=Hasher.hash((state, features)),
    )
    return table, problems


def survey(read: ReadRows, state: str) -> tuple[dict[str, Column], list[SkippedSample]]:
    """What the columns hold, and the rows that could not be read; from the cache if it is there.

    Raises:
        DataError: there is no row.
    """
    place = CACHE / f"{Hasher.hash(state)}.json"
    if place.is_file():
        kept = json.loads(place.read_text(encoding="utf-8"))
        columns = {
            name: Column({KINDS.get(kind, object) for kind in kinds}, is_number)
            for name, kinds, is_number in kept["columns"]
        }
        return columns, [SkippedSample(*problem) for problem in kept["problems"]]
    columns, problems, is_empty = {}, [], True
    for row in read():
        if isinstance(row, SkippedSample):
            problems.append(row)
            continue
        is_empty = False
        for name, value in row.columns.items():
            columns.setdefault(name, Column()).see(value)
    if is_empty:
        first = f"; the first problem: {problems[0].name}: {problems[0].reason}" if problems else ""
        raise DataError(f"there is no row to read{first}")
    write_survey(place, columns, problems)
    return columns, problems


def write_survey(place: Path, columns: dict[str, Column], problems: list[SkippedSample]):
    """Keep the result of a survey."""
    content = {
        "columns": [
            (name, sorted(kind.__name__ for kind in column.kinds), column.is_number)
            for name, column in columns.items()
        ],
        "problems": [(problem.name, problem.reason) for problem in problems],
    }
    place.parent.mkdir(parents=True, exist_ok=True)
    with replaced_file(place) as partial:
        partial.write_text(json.dumps(content), encoding="utf-8")


def kind_of_column(name: str, column: Column) -> str:
    """What a column holds, as `columns.column_kinds` says it."""
    if dict in column.kinds:
        return "image" if name == "image" else "other"
    if column.kinds == {bytes}:
        return "image" if name == "image" else "bytes"
    if list in column.kinds:
        return "texts"
    feature = feature_of(name, column)
    return "text" if isinstance(feature, Value) and feature.dtype == "string" else "other"


def feature_of(name: str, column: Column) -> Any:
    """The type of a column whose values were seen."""
    kinds = column.kinds
    if list in kinds and kinds <= {list, str}:
        return List(Value("string"))
    if kinds == {bytes}:
        return Value("binary")
    if name.lower() in TEXT_NAMES or name.lower().startswith(("caption_", "text_")):
        return Value("string")
    if kinds == {str} and column.is_number:
        return Value("int64")
    numbers = {int: "int64", float: "float64", bool: "bool"}
    if len(kinds) == 1 and (kind := next(iter(kinds))) in numbers:
        return Value(numbers[kind])
    return Value("float64" if kinds == {int, float} else "string")


def generate_rows(read: ReadRows, features: Features) -> Iterator[dict[str, Any]]:
    """The usable rows, every column in each."""
    for row in read():
        if isinstance(row, Row):
            yield {name: cast(row, name, feature) for name, feature in features.items()}


def cast(row: Row, name: str, feature: Any) -> Any:
    """A value of a row as its column takes it."""
    value = row.columns.get(name)
    if value is None:
        return None
    if isinstance(feature, Image):
        if isinstance(value, str):
            return locate_image(value, row.folder)
        return value if isinstance(value, dict) else {"bytes": value, "path": row.name}
    if isinstance(feature, List):
        values = value if isinstance(value, list) else [value]
        return [text if isinstance(text, str) else as_text(text) for text in values]
    if isinstance(feature, ClassLabel):
        return feature.str2int(value)
    if feature.dtype == "string":
        return value if isinstance(value, str) else as_text(value)
    return int(value) if feature.dtype == "int64" else value


def as_text(value: Any) -> str:
    """A value that is no text as one: a number as it is written, anything else as JSON."""
    return str(value) if isinstance(value, int) else json.dumps(value, ensure_ascii=False)
