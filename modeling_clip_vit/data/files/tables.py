"""Read tables as people have them: CSV, TSV, JSON and JSON lines, in any encoding.

An error in one line is reported for that line, and the others are still read. The rows of a table
are `(number, columns)`, or `(number, reason)` where a line cannot be used.
"""

import codecs
import csv
import io
import json
import logging
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from charset_normalizer import from_bytes

from ...utils.errors import first_line
from ..columns import kind_of_value
from ..errors import DataError

logger = logging.getLogger(__name__)

DELIMITED_SUFFIXES = (".csv", ".tsv")
JSON_LINES_SUFFIXES = (".jsonl", ".ndjson")
TABLE_SUFFIXES = (*DELIMITED_SUFFIXES, ".json", *JSON_LINES_SUFFIXES)
DELIMITERS = (",", ";", "\t", "|")
#: Marks at a file's beginning that say its encoding, the longer ones first.
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
#: What a table may be in that is not Unicode: Chinese, Western European and Cyrillic.
OLD_ENCODINGS = ["gb18030", "cp1252", "cp1251"]
#: So many bytes tell the encoding where no mark does.
ENCODING_SAMPLE = 1 << 22
#: A quoted field spans at most this many lines.
MOST_LINES = 200
#: Rows of a Parquet file that are in memory at once.
PARQUET_BATCH = 1024

#: Column -> value.
Fields = dict[str, Any]


def read_table(path: Path) -> Iterator[tuple[int, Fields | str]]:
    """The rows of a table, numbered from 0.

    Args:
        path: a CSV, TSV, JSON, JSON lines or Parquet file.

    Raises:
        DataError: the file as a whole cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in DELIMITED_SUFFIXES:
        yield from read_delimited(path)
    elif suffix == ".json":
        yield from enumerate(check_rows(read_json(path)))
    elif suffix in JSON_LINES_SUFFIXES:
        with open_text(path) as file:
            lines = (line for line in file if line.strip())
            yield from enumerate(check_rows(map(parse_json_line, lines)))
    else:
        batches = pq.ParquetFile(path).iter_batches(PARQUET_BATCH)
        yield from enumerate(row for batch in batches for row in batch.to_pylist())


def peek_columns(path: Path, most: int = 100) -> dict[str, str]:
    """What each column of a table holds, by its first rows; empty for what is no table."""
    kinds: dict[str, str] = {}
    try:
        if path.suffix.lower() in DELIMITED_SUFFIXES:
            kinds = dict.fromkeys(read_header(path), "text")
        for _, columns in islice(read_table(path), most):
            if isinstance(columns, dict):
                for name, value in columns.items():
                    if value is not None:
                        kinds.setdefault(name, kind_of_value(value))
    except DataError:
        return {}
    return kinds


def open_text(path: Path) -> io.TextIOWrapper:
    """Open a text file in its encoding; bytes that are none of it become lone surrogates."""
    return open(path, encoding=find_encoding(path), errors="surrogateescape")


def find_encoding(path: Path) -> str:
    """The encoding of a text file: by its byte order mark, UTF-8 if that fits, or else guessed.

    Raises:
        DataError: no encoding fits.
    """
    state = path.stat()
    return guess_encoding(path, state.st_size, state.st_mtime_ns)


@lru_cache(1000)
def guess_encoding(path: Path, size: int, changed: int) -> str:
    """`find_encoding`, cached for as long as the file does not change."""
    with open(path, "rb") as file:
        sample = file.read(ENCODING_SAMPLE)
    for mark, encoding in MARKS.items():
        if sample.startswith(mark):
            return encoding
    if len(sample) == ENCODING_SAMPLE:
        sample = sample[: sample.rfind(b"\n") + 1] or sample
    try:
        sample.decode("utf-8")
        return "utf-8"
    except UnicodeDecodeError as error:
        # A single broken line does not make another encoding of a file.
        if is_mostly_utf8(sample):
            return "utf-8"
        guess = from_bytes(sample[: 1 << 18], cp_isolation=OLD_ENCODINGS).best()
        if guess is None:
            raise DataError(
                f"{str(path)!r} is not UTF-8 ({first_line(error)}), and no other encoding fits: "
                "save it as UTF-8"
            ) from error
        logger.warning("%s is not UTF-8, and is read as %s", path, guess.encoding)
        return guess.encoding


def is_mostly_utf8(sample: bytes) -> bool:
    """Whether most of the lines that are not plain ASCII are UTF-8."""
    lines = [line for line in sample.splitlines() if not line.isascii()]
    good = sum(1 for line in lines if is_utf8(line))
    return good > len(lines) / 2


def is_utf8(line: bytes) -> bool:
    """Whether bytes are UTF-8."""
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def read_delimited(path: Path) -> Iterator[tuple[int, Fields | str]]:
    """The rows of a CSV or TSV file, every value a text, an empty one None."""
    delimiter = find_delimiter(path)
    with open_text(path) as file:
        records = read_records(file, delimiter)
        names = name_columns(next(records, []))
        width = len(names)
        for number, fields in enumerate(record for record in records if record != [""]):
            extra = [field for field in fields[width:] if field.strip()]
            if extra:
                yield number, f"it has {len(fields)} fields, but the header has {width}"
                continue
            values = [field.strip() or None for field in fields]
            values += [None] * (width - len(values))
            columns = dict(zip(names, values, strict=False))
            yield number, check_text(columns)


def read_header(path: Path) -> list[str]:
    """The names of the columns of a CSV or TSV file."""
    delimiter = find_delimiter(path)
    with open_text(path) as file:
        return name_columns(next(read_records(file, delimiter), []))


def name_columns(header: list[str]) -> list[str]:
    """The names in a header; a number for a column without one."""
    return [name.strip() or f"column_{place}" for place, name in enumerate(header, 1)]


def find_delimiter(path: Path, most: int = 50) -> str:
    """What stands between the fields: the one of `DELIMITERS` that cuts the lines most evenly."""
    candidates = ("\t", *DELIMITERS) if path.suffix.lower() == ".tsv" else DELIMITERS
    scores = {}
    for delimiter in dict.fromkeys(candidates):
        with open_text(path) as file:
            records = list(islice(read_records(file, delimiter), most))
        width = len(records[0]) if records else 0
        even = sum(1 for record in records if len(record) == width)
        scores[delimiter] = even if width > 1 else 0
    # Of equally even ones, the first.
    return max(scores, key=lambda delimiter: scores[delimiter])


def read_records(file: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    """The records of a delimited file, whatever its quotation marks.

    A quoted field may hold delimiters and line ends. A quotation mark that begins a field and is
    never closed, such as an inch sign, is an ordinary character: it must not swallow the lines that
    follow.
    """
    lines = iter(file)
    waiting: list[str] = []
    width = 0
    while (line := waiting.pop(0) if waiting else next(lines, None)) is not None:
        record = parse_record(line, delimiter)
        if record is None:
            record = join_lines(line, waiting, lines, delimiter, width)
        if record is None:
            literal = line.rstrip("\r\n").split(delimiter)
            record = [unquote(field) for field in literal]
        width = width or len(record)
        yield record


def join_lines(
    line: str, waiting: list[str], lines: Iterator[str], delimiter: str, width: int
) -> list[str] | None:
    """A record over several lines; None where what follows does not make it one."""
    if delimiter == "\t":
        return None  # as TSV has it, a line is a row
    waiting.extend(islice(lines, max(0, MOST_LINES - len(waiting))))
    text = line
    for place, next_line in enumerate(waiting, start=1):
        text += next_line
        if '"' in next_line:
            record = parse_record(text, delimiter)
            if record is not None and len(record) == (width or len(record)):
                del waiting[:place]
                return record
    return None


def parse_record(text: str, delimiter: str) -> list[str] | None:
    """The fields of one record; None where its quotation marks are not closed."""
    try:
        records = list(csv.reader(io.StringIO(text), delimiter=delimiter, strict=True))
    except csv.Error:
        return None
    return records[0] if len(records) == 1 else [""] if not records else None


def unquote(field: str) -> str:
    """A field without its enclosing quotation marks."""
    if len(field) > 1 and field[0] == field[-1] == '"':
        return field[1:-1].replace('""', '"')
    return field


def read_json(path: Path) -> list[Any]:
    """The rows of a JSON file: a list of objects, or an object of one such list or of columns.

    Raises:
        DataError: it is none of these.
    """
    try:
        with open_text(path) as file:
            content = json.load(file)
    except ValueError as error:
        raise DataError(f"{str(path)!r} is no JSON: {first_line(error)}") from error
    if isinstance(content, dict):
        lists = {name: value for name, value in content.items() if isinstance(value, list)}
        of_objects = [rows for rows in lists.values() if rows and isinstance(rows[0], dict)]
        if len(of_objects) == 1:
            content = of_objects[0]
        elif lists and len(lists) == len(content) and len({len(v) for v in lists.values()}) == 1:
            rows = zip(*lists.values(), strict=True)
            content = [dict(zip(lists, row, strict=True)) for row in rows]
    if not isinstance(content, list):
        raise DataError(f"{str(path)!r} holds no rows: a list of objects is needed")
    return content


def parse_json_line(line: str) -> Any:
    """What a line of JSON says, or why it says nothing."""
    try:
        return json.loads(line)
    except ValueError as error:
        return f"it is no JSON: {first_line(error)}"


def check_rows(rows: Iterable[Any]) -> Iterator[Fields | str]:
    """Rows of JSON, each an object of texts that can be written, or what is wrong with it."""
    for row in rows:
        if isinstance(row, dict):
            yield check_text(row)
        else:
            yield row if isinstance(row, str) else f"it is no object but {type(row).__name__}"


def check_text(columns: Fields) -> Fields | str:
    """The row unchanged, or what is wrong if one of its texts has bytes that are no characters."""
    for name, value in columns.items():
        if not is_clean(value):
            return f"its {name!r} has bytes that are no characters"
    return columns


def is_clean(value: Any) -> bool:
    """Whether every text in a value can be encoded."""
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return False
        return True
    if isinstance(value, dict):
        return all(is_clean(part) for pair in value.items() for part in pair)
    return all(map(is_clean, value)) if isinstance(value, list) else True
