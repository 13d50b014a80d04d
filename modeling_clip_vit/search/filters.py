"""Filters on the columns of an index: read from text, evaluated here or by LanceDB.

`camera = 'x' and taken > '2024-01-01'` is SQL's language of conditions. It is parsed here, so that
no text of a user becomes part of a statement, a date may be written as a string, and a mistake is
named together with the columns that there are.

    condition: comparison | condition AND condition | condition OR condition | NOT condition | (…)
    comparison: column (= | != | <> | < | <= | > | >=) value | column [NOT] IN (value, …)
                | column [NOT] BETWEEN value AND value | column [NOT] LIKE 'pat%tern_'
                | column IS [NOT] NULL
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa

from ..utils.errors import UserError

TOKEN = re.compile(
    r"""\s*(?:
    (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?![\w.]))
    | '(?P<string>(?:[^']|'')*)'
    | `(?P<quoted>[^`]+)` | "(?P<double>[^"]+)"
    | (?P<word>[^\W\d]\w*)
    | (?P<sign><>|!=|<=|>=|=|<|>|\(|\)|,)
    )""",
    re.VERBOSE,
)
KEYWORDS = frozenset(
    (
        "and",
        "or",
        "not",
        "in",
        "between",
        "like",
        "is",
        "null",
        "true",
        "false",
        "date",
        "timestamp",
    )
)
COMPARISONS = {"=": "==", "!=": "!=", "<>": "!=", "<": "<", "<=": "<=", ">": ">", ">=": ">="}


class FilterError(UserError):
    """A filter that cannot be used; the message is one clear sentence."""


@dataclass(frozen=True)
class Compare:
    """A column compared with a value."""

    column: str
    sign: str
    value: Any


@dataclass(frozen=True)
class OneOf:
    """A column that has one of some values."""

    column: str
    values: tuple


@dataclass(frozen=True)
class Like:
    """A column of texts that fits a pattern: `%` is any text, `_` any character."""

    column: str
    pattern: str


@dataclass(frozen=True)
class IsNull:
    """A column without a value."""

    column: str


@dataclass(frozen=True)
class Not:
    """The opposite of a condition; a condition on a missing value is neither true nor false."""

    part: Any


@dataclass(frozen=True)
class Both:
    """Two conditions that must both be true."""

    left: Any
    right: Any


@dataclass(frozen=True)
class Either:
    """Two conditions of which one must be true."""

    left: Any
    right: Any


Condition = Compare | OneOf | Like | IsNull | Not | Both | Either


def parse_filter(text: str, schema: pa.Schema) -> Condition:
    """Read a condition, as `--where` takes it.

    Args:
        text: as the user typed it.
        schema: the columns that there are, with their types.

    Raises:
        FilterError: it is no condition, names a column that is not there, or compares a column
            with a value of another type.
    """
    parser = Parser(text, schema)
    condition = parser.either()
    if parser.tokens[parser.place] is not END:
        raise parser.error(f"{parser.shown()} is not expected there")
    return condition


def filterable(schema: pa.Schema) -> list[str]:
    """The names of the columns that a filter can use."""
    return [field.name for field in schema if kind_of(field.type) is not None]


def kind_of(kind: pa.DataType) -> str | None:
    """What values of a type are compared with; None for lists and other things."""
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return "a string in single quotes"
    if pa.types.is_boolean(kind):
        return "true or false"
    if pa.types.is_integer(kind):
        return "a whole number"
    if pa.types.is_floating(kind):
        return "a number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "a date such as '2024-01-31' or '2024-01-31 18:00'"
    return None


@dataclass(frozen=True)
class Token:
    """A word, sign or literal, and where it begins."""

    kind: str
    text: str
    start: int


END = Token("end", "", -1)


class Parser:
    """A recursive-descent parser of conditions."""

    def __init__(self, text: str, schema: pa.Schema):
        self.text, self.schema, self.place = text, schema, 0
        self.tokens: list[Token] = []
        place = 0
        while text[place:].strip():
            match = TOKEN.match(text, place)
            if match is None:
                rest = text[place:].strip()
                raise self.error(f"{rest[:20]!r} is not expected there")
            kind = match.lastgroup or ""
            content = match[kind].replace("''", "'") if kind == "string" else match[kind]
            if kind in ("quoted", "double"):
                kind = "name"
            elif kind == "word":
                kind = "keyword" if content.lower() in KEYWORDS else "name"
                content = content.lower() if kind == "keyword" else content
            self.tokens.append(Token(kind, content, match.start()))
            place = match.end()
        self.tokens.append(END)
        if len(self.tokens) == 1:
            raise self.error("it is empty")

    def error(self, reason: str) -> FilterError:
        """What is wrong, with the columns that there are."""
        return FilterError(
            f"where={self.text!r} is not a filter: {reason}; write conditions such as "
            f"\"width > 1000 and camera = 'x'\"; the columns are "
            f"{', '.join(name for name in filterable(self.schema) if name != 'error')}"
        )

    def shown(self) -> str:
        """The present token, for a message."""
        token = self.tokens[self.place]
        return "the end" if token is END else repr(token.text)

    def accept(self, kind: str, *texts: str) -> Token | None:
        """The present token if it is this one, which is then read."""
        token = self.tokens[self.place]
        if token.kind != kind or (texts and token.text not in texts):
            return None
        self.place += 1
        return token

    def expect(self, kind: str, text: str):
        """Read a token that must be there."""
        if self.accept(kind, text) is None:
            raise self.error(f"{text.upper()!r} is missing before {self.shown()}")

    def either(self) -> Condition:
        """Conditions joined by OR."""
        left = self.both()
        while self.accept("keyword", "or"):
            left = Either(left, self.both())
        return left

    def both(self) -> Condition:
        """Conditions joined by AND."""
        left = self.single()
        while self.accept("keyword", "and"):
            left = Both(left, self.single())
        return left

    def single(self) -> Condition:
        """NOT, a condition in parentheses, or a comparison."""
        if self.accept("keyword", "not"):
            return Not(self.single())
        if self.accept("sign", "("):
            condition = self.either()
            self.expect("sign", ")")
            return condition
        return self.comparison(self.column())

    def column(self) -> str:
        """The name of a column that is there."""
        token = self.accept("name")
        if token is None:
            raise self.error(f"a column is missing before {self.shown()}")
        columns = filterable(self.schema)
        if token.text in columns:
            return token.text
        alike = [name for name in columns if name.lower() == token.text.lower()]
        if len(alike) == 1:
            return alike[0]
        raise self.error(f"there is no column {token.text!r}")

    def comparison(self, column: str) -> Condition:
        """What follows a column."""
        if sign := self.accept("sign", *COMPARISONS):
            return Compare(column, COMPARISONS[sign.text], self.value(column))
        if self.accept("keyword", "is"):
            is_not = self.accept("keyword", "not")
            self.expect("keyword", "null")
            return Not(IsNull(column)) if is_not else IsNull(column)
        is_not = self.accept("keyword", "not")
        condition = self.membership(column)
        return Not(condition) if is_not else condition

    def membership(self, column: str) -> Condition:
        """IN, BETWEEN or LIKE after a column."""
        if self.accept("keyword", "in"):
            self.expect("sign", "(")
            values = [self.value(column)]
            while self.accept("sign", ","):
                values.append(self.value(column))
            self.expect("sign", ")")
            return OneOf(column, tuple(values))
        if self.accept("keyword", "between"):
            low = Compare(column, ">=", self.value(column))
            self.expect("keyword", "and")
            return Both(low, Compare(column, "<=", self.value(column)))
        if self.accept("keyword", "like"):
            pattern = self.value(column)
            if not isinstance(pattern, str):
                raise self.error(f"LIKE needs a column of strings, and {column!r} is none")
            return Like(column, pattern)
        raise self.error(f"a comparison is missing after the column {column!r}")

    def value(self, column: str) -> Any:
        """A literal that can be compared with a column."""
        kind = self.schema.field(column).type
        token = self.tokens[self.place]
        if token.kind == "keyword" and token.text in ("date", "timestamp"):
            self.place += 1  # SQL's way of saying that a string is a date
            token = self.tokens[self.place]
        value = literal(token, kind)
        if value is None:
            raise self.error(
                f"{column!r} is compared with {kind_of(kind)}, not with {self.shown()}"
            )
        self.place += 1
        return value


def literal(token: Token, kind: pa.DataType) -> Any:
    """The value of a token for a column of a type; None if it is none."""
    if pa.types.is_boolean(kind):
        is_boolean = token.kind == "keyword" and token.text in ("true", "false")
        return token.text == "true" if is_boolean else None
    if pa.types.is_integer(kind):
        is_whole = token.kind == "number" and re.fullmatch(r"[-+]?\d+", token.text)
        return int(token.text) if is_whole and fits(int(token.text), kind) else None
    if pa.types.is_floating(kind):
        return float(token.text) if token.kind == "number" else None
    if token.kind != "string":
        return None
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return read_date(token.text, kind)
    return token.text


def read_date(text: str, kind: pa.DataType) -> datetime | date | None:
    """A date as a value of a column of dates; None if the text is none."""
    try:
        value = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    if pa.types.is_date(kind):
        return value.date()
    if kind.tz is not None:
        return value.astimezone(UTC)  # without a zone, this machine's
    return value.astimezone().replace(tzinfo=None) if value.tzinfo else value


def under_folder(folder: str) -> Condition:
    """Pictures in a folder below the one that was indexed, or in folders below that."""
    prefix = folder.strip().replace("\\", "/").strip("/")
    if prefix in ("", "."):
        raise FilterError(f"under={folder!r} names no folder below the one that was indexed")
    # "0" is the character after "/": a range of an index instead of a pattern with escapes.
    return Both(Compare("path", ">=", f"{prefix}/"), Compare("path", "<", f"{prefix}0"))


def since(text: str) -> Condition:
    """Pictures taken at a date or later; files without a date of their own by their own time.

    Args:
        text: a date, or a time span up to now: `90d`, `12h`, `2w`, `1y`.
    """
    if match := re.fullmatch(r"(\d+)\s*([hdwmy])", text.strip().lower()):
        days = {"h": 1 / 24, "d": 1, "w": 7, "m": 30.44, "y": 365.25}[match[2]]
        start = datetime.now() - timedelta(days=int(match[1]) * days)
    else:
        found = read_date(text, pa.timestamp("us"))
        if not isinstance(found, datetime):
            raise FilterError(
                f"since={text!r} is not a date: write one such as 2024-01-31, or a time span such "
                "as 12h, 90d, 2w, 6m or 1y"
            )
        start = found
    by_file = Compare("modified", ">=", start.astimezone(UTC))
    return Either(Compare("taken", ">=", start), Both(IsNull("taken"), by_file))


def all_of(conditions: list[Condition]) -> Condition | None:
    """One condition that is true where all are; None if there are none."""
    if not conditions:
        return None
    whole = conditions[0]
    for condition in conditions[1:]:
        whole = Both(whole, condition)
    return whole


def evaluate(condition: Condition, rows: pa.Table) -> pa.ChunkedArray:
    """Whether a condition is true for each row: booleans, null where a value is missing."""
    import pyarrow.compute as pc

    def scalar(column: str, value: Any) -> pa.Scalar:
        return pa.scalar(value, rows.schema.field(column).type)

    functions: Mapping[str, Callable] = {
        "==": pc.equal,
        "!=": pc.not_equal,
        "<": pc.less,
        "<=": pc.less_equal,
        ">": pc.greater,
        ">=": pc.greater_equal,
    }
    match condition:
        case Both(left, right):
            return pc.and_kleene(evaluate(left, rows), evaluate(right, rows))
        case Either(left, right):
            return pc.or_kleene(evaluate(left, rows), evaluate(right, rows))
        case Not(part):
            return pc.invert(evaluate(part, rows))
        case IsNull(column):
            return pc.is_null(rows[column])
        case Like(column, pattern):
            return pc.match_like(rows[column], pattern)
        case OneOf(column, values):
            parts = [pc.equal(rows[column], scalar(column, value)) for value in values]
            whole = parts[0]
            for part in parts[1:]:
                whole = pc.or_kleene(whole, part)
            return whole
        case Compare(column, sign, value):
            return functions[sign](rows[column], scalar(column, value))
    raise TypeError(f"{condition!r} is not a condition")


def to_sql(condition: Condition) -> str:
    """A condition as LanceDB reads it; names and values are quoted by LanceDB itself."""
    from lancedb.expr import Expr, col, lit

    operations: Mapping[str, Callable[[Expr, Any], Expr]] = {
        "==": Expr.__eq__,
        "!=": Expr.__ne__,
        "<": Expr.__lt__,
        "<=": Expr.__le__,
        ">": Expr.__gt__,
        ">=": Expr.__ge__,
    }
    match condition:
        case Both(left, right):
            return f"({to_sql(left)} AND {to_sql(right)})"
        case Either(left, right):
            return f"({to_sql(left)} OR {to_sql(right)})"
        case Not(part):
            return f"(NOT {to_sql(part)})"
        case IsNull(column):
            return f"({col(column).to_sql()} IS NULL)"
        case Like(column, pattern):
            return f"({col(column).to_sql()} LIKE {lit(pattern).to_sql()})"
        case OneOf(column, values):
            return "(" + " OR ".join(to_sql(Compare(column, "==", it)) for it in values) + ")"
        case Compare(column, sign, value):
            return operations[sign](col(column), lit(value)).to_sql()
    raise TypeError(f"{condition!r} is not a condition")


def fits(number: int, kind: pa.DataType) -> bool:
    """Whether a type of integers holds a number; LanceDB writes none beyond 63 bits."""
    bits = min(kind.bit_width, 63) if pa.types.is_unsigned_integer(kind) else kind.bit_width - 1
    return (0 if pa.types.is_unsigned_integer(kind) else -(2**bits)) <= number < 2**bits
