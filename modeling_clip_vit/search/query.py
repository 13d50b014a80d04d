"""What is searched for: texts and pictures, added and subtracted.

The grammar is rclip's: `horse + stripes`, `apple - fruit`, `2:dog + 0.5:snow`, and the name of a
picture file wherever a text may be.

Shape legend: `P` projection.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..data.decoding import PICTURE_SUFFIXES
from ..utils.errors import UserError

#: Longer queries are rejected: a text tower reads some dozens of tokens.
MOST_CHARACTERS = 2_000

#: Endings of pictures that only optional packages read.
MORE_SUFFIXES = frozenset((".heic", ".heif"))
#: A weight, and the colon after it; "12:30" is a time.
WEIGHT = re.compile(r"(\d+(?:\.\d*)?|\.\d+):(?!\d)")


@dataclass(frozen=True)
class Part:
    """A text or a picture of a query.

    Args:
        content: the text, or the path of the picture.
        weight: factor on its embedding; negative for what is subtracted.
        is_picture: whether `content` is a path.
    """

    content: str
    weight: float = 1.0
    is_picture: bool = False


def parse_query(query: str | None, similar: Sequence[str] = ()) -> list[Part]:
    """The parts of a query, in order.

    Args:
        query: as the user typed it; None if only pictures are searched with.
        similar: paths of pictures that are added.

    Raises:
        UserError: the query is empty, too long, lacks a text after a sign or a weight, names a
            picture that is not there, or only says what not to find.
    """
    parts = [] if query is None else parse_text(query)
    for path in similar:
        if not Path(path).expanduser().is_file():
            raise UserError(f"there is no picture {path!r} to search with")
        parts.append(Part(str(Path(path).expanduser()), is_picture=True))
    if not parts:
        raise UserError("the query is empty: say what to look for")
    if all(part.weight < 0 for part in parts):
        raise UserError(f"{query!r} only says what not to find: add what to look for")
    return parts


def parse_text(query: str) -> list[Part]:
    """The parts of a typed query, split where a plus or minus has a space on both sides."""
    if len(query) > MOST_CHARACTERS:
        raise UserError(
            f"the query has {len(query):,} characters: at most {MOST_CHARACTERS:,} are allowed"
        )
    if not query.strip():
        raise UserError("the query is empty: say what to look for")
    # Spaces around the whole: a sign at the very beginning or end is one as well.
    first, *others = re.split(r"\s([+-])(?=\s)", f" {query.strip()} ")
    parts = [] if not first.strip() and others else [parse_part(first, "+", query)]
    signs, contents = others[::2], others[1::2]
    return parts + [parse_part(it, sign, query) for sign, it in zip(signs, contents, strict=True)]


def parse_part(content: str, sign: str, query: str) -> Part:
    """One part: an optional weight, then a text or the path of a picture."""
    content = content.strip()
    weight = 1.0
    if match := WEIGHT.match(content):
        weight, content = float(match[1]), content[match.end() :].strip()
    if not content:
        raise UserError(f"the query {query!r} lacks a text beside its {sign!r} or its weight")
    if weight == 0:
        raise UserError(f"the query {query!r} has a part of weight 0: leave that part out")
    weight = weight if sign == "+" else -weight
    if not is_picture_file(content):
        return Part(content, weight)
    return Part(str(Path(content).expanduser()), weight, is_picture=True)


def is_picture_file(text: str) -> bool:
    """Whether a text is the path of a picture, by its ending.

    Raises:
        UserError: it looks like one, but there is no such file.
    """
    suffix = Path(text).suffix.lower()
    if suffix not in PICTURE_SUFFIXES | MORE_SUFFIXES:
        return False
    if not Path(text).expanduser().is_file():
        raise UserError(f"there is no picture {text!r} to search with")
    return True


@dataclass(frozen=True)
class EmbeddedQuery:
    """The embedding of a query, and what it is made of.

    Args:
        vector: the weighted sum of the parts' embeddings, of length 1: float32 (P,).
        text_weight, picture_weight: sums of the weights of texts and of pictures in `vector`.
        text_norm, picture_norm: roots of the sums of their squares.
    """

    vector: np.ndarray
    text_weight: float = 1.0
    picture_weight: float = 0.0
    text_norm: float = 1.0
    picture_norm: float = 0.0


def embed_query(
    parts: Sequence[Part],
    encode_texts: Callable[[list[str]], np.ndarray],
    encode_pictures: Callable[[list[str]], np.ndarray],
) -> EmbeddedQuery:
    """The weighted sum of the parts' embeddings.

    Args:
        parts: of the query.
        encode_texts: embeds texts, (N, P) of length 1.
        encode_pictures: embeds picture files, likewise.

    Raises:
        UserError: the parts cancel each other out.
    """
    texts = [part for part in parts if not part.is_picture]
    pictures = [part for part in parts if part.is_picture]
    sums, weights = [], []
    for chosen, encode in ((texts, encode_texts), (pictures, encode_pictures)):
        weights.append(np.array([part.weight for part in chosen], np.float32))
        if chosen:
            sums.append(weights[-1] @ encode([part.content for part in chosen]))
    total = np.sum(sums, axis=0)
    length = float(np.linalg.norm(total))
    if not np.isfinite(length):
        raise UserError("the model gives this query an embedding that is not a number")
    if length < 1e-4:
        raise UserError("the parts of the query cancel each other out: nothing is left to look for")
    shares = [it / length for it in weights]
    return EmbeddedQuery(
        (total / length).astype(np.float32),
        *(float(share.sum()) for share in shares),
        *(float(np.linalg.norm(share)) for share in shares),
    )
