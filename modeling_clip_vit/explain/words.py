"""The words of a text and their tokens, by the tokenizer's offsets."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..utils.errors import UserError

#: Maximum number of characters of a text, which is more than any model reads.
LONGEST_TEXT = 2000

#: First words of the Unicode names of characters whose languages put no spaces between words.
UNSPACED = frozenset(("CJK", "HIRAGANA", "KATAKANA", "THAI", "LAO", "KHMER", "MYANMAR"))


@dataclass
class Span:
    """A word: where it is in the text, and the places of its tokens."""

    start: int
    end: int
    tokens: list[int] = field(default_factory=list)


def check_text(text: str):
    """Refuse a text without a word, or one that no model reads to its end.

    Raises:
        UserError: it is one of these.
    """
    if not text.strip():
        raise UserError("the text is empty: say what the picture is compared with")
    if len(text) > LONGEST_TEXT:
        raise UserError(
            f"the text has {len(text):,} characters: at most {LONGEST_TEXT:,} are allowed"
        )


def find_words(text: str, offsets: Sequence[tuple[int, int]]) -> list[Span]:
    """Join tokens to words.

    Tokens are joined where letters meet without a space between, and where they share a character,
    as the bytes of an emoji do. In languages without spaces, such as Chinese, a token is a word.

    Args:
        text: the text.
        offsets: first character of each token and the one after its last; equal for tokens that
            stand for nothing in the text.
    """
    words: list[Span] = []
    for token, (start, end) in enumerate(offsets):
        piece = text[start:end]
        start, end = (
            start + len(piece) - len(piece.lstrip()),
            end - len(piece) + len(piece.rstrip()),
        )
        if start >= end:
            continue
        last = words[-1] if words else None
        if last and (start < last.end or (start == last.end and is_inside(text, start))):
            last.end = max(last.end, end)
            last.tokens.append(token)
        else:
            words.append(Span(start, end, [token]))
    return words


def split_words(text: str) -> list[Span]:
    """The words of a text by its characters alone, for tokenizers without offsets."""
    return find_words(text, [(place, place + 1) for place in range(len(text))])


def is_inside(text: str, place: int) -> bool:
    """Whether a word goes on across the border before this character."""
    return is_spaced_letter(text[place - 1]) and is_spaced_letter(text[place])


def is_spaced_letter(character: str) -> bool:
    """Whether a character is part of words that spaces separate."""
    is_letter = character.isalnum() or unicodedata.category(character)[0] == "M"
    script = unicodedata.name(character, "").partition(" ")[0]
    return (is_letter or character in "'’") and script not in UNSPACED
