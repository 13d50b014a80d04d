"""What explains a match, as arrays and as JSON.

Shape legend: `Y`, `X` rows and columns of cells.
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Word:
    """A word of the text, or a token where the language has no spaces.

    Args:
        text: as it stands in the text.
        start, end: its first character, and the one after its last.
        value: how much it adds to the match; negative where it speaks against it.
    """

    text: str
    start: int
    end: int
    value: float


@dataclass(frozen=True)
class Explanation:
    """How much each part of a picture and each word of a text adds to their match.

    Args:
        text: the text.
        cosine: the cosine similarity of picture and text.
        patches: value of each cell of the picture, float32 (Y, X); negative where it speaks
            against the match.
        patches_rest: what `patches` leave of the cosine: `patches.sum() + patches_rest == cosine`.
            None for methods whose values are no parts of a sum.
        patches_method: what computed `patches`, a key of `METHODS`.
        words: of the text, in its order, as far as the model reads it.
        words_rest: what the words leave of the cosine, or None.
        words_method: what computed the values of the words.
        box: the part of the picture that the model sees, in pixels: left, top, right, bottom.
        settings: of the methods.
        unread: the end of the text that the model's maximum length cuts off.
    """

    text: str
    cosine: float
    patches: np.ndarray
    patches_rest: float | None
    patches_method: str
    words: list[Word]
    words_rest: float | None
    words_method: str
    box: tuple[int, int, int, int]
    settings: dict[str, Any] = field(default_factory=dict)
    unread: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain numbers, lists and texts, for JSON."""
        return {
            "text": self.text,
            "cosine": self.cosine,
            "settings": self.settings,
            "patches": {
                "method": self.patches_method,
                "box": list(self.box),
                "values": [[float(value) for value in row] for row in self.patches],
                "rest": self.patches_rest,
            },
            "words": {
                "method": self.words_method,
                "values": [vars(word) for word in self.words],
                "rest": self.words_rest,
                "unread": self.unread,
            },
        }
