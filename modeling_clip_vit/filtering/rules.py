"""Which rows are dropped, and why.

Shape legend: `N` rows, `P` projection.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from ..search.duplicates import find_duplicates
from .languages import LanguageFilter
from .options import FilterOptions
from .pairs import Pair

#: Why a row is dropped, in the order in which the conditions are checked -> what it means.
REASONS = {
    "unreadable": "the row or its image cannot be read",
    "no_caption": "there is no caption",
    "side": "the image is smaller than min_side",
    "aspect": "the image is longer than max_aspect",
    "length": "a caption is too short or too long",
    "language": "a caption is in another language",
    "score": "image and caption match less than min_score",
    "duplicate": "another row has the same image",
    "share": "others match better, and keep_share leaves these out",
}
#: Number of a reason in a table; 0 is kept.
CODES = {name: code for code, name in enumerate(REASONS, start=1)}


class PairRules:
    """The conditions that a pair meets or not by itself.

    Args:
        options: the conditions.
    """

    def __init__(self, options: FilterOptions):
        self.options = options
        self.languages = LanguageFilter(options.languages) if options.languages else None

    def reason(self, pair: Pair) -> str:
        """Why a pair is dropped; empty if it is not."""
        options = self.options
        if pair.error:
            return "unreadable"
        if not pair.captions:
            return "no_caption"
        short, long = sorted((pair.width, pair.height))
        if options.min_side is not None and short < options.min_side:
            return "side"
        if options.max_aspect is not None and long > options.max_aspect * short:
            return "aspect"
        if not all(map(self.has_length, pair.captions)):
            return "length"
        if self.languages is not None:
            least = options.min_language_probability
            if any(self.languages.probability(text) < least for text in pair.captions):
                return "language"
        return ""

    def worst_language(self, pair: Pair) -> str:
        """The most probable language of the caption that is least likely in one of `languages`."""
        assert self.languages is not None
        return self.languages.best(min(pair.captions, key=self.languages.probability))

    def has_length(self, text: str) -> bool:
        """Whether a caption is neither too short nor too long."""
        options = self.options
        return (
            len(text.split()) >= (options.min_words or 0)
            and len(text) >= (options.min_characters or 0)
            and len(text) <= (options.max_characters or len(text))
        )


def decide(
    facts: pa.Table, vectors: np.ndarray, options: FilterOptions, reasons: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Add the conditions that compare rows with a threshold or with each other.

    Args:
        facts: with `reason`, `score`, `width`, `height`, `sha256`, `pixel_hash` and
            `perceptual_hash`.
        vectors: of the images, (N, P), of length 1; P is 0 without a model.
        options: the conditions.
        reasons: what makes images duplicates.

    Returns:
        The code of each row's reason, uint8 (N,); and the row that each duplicate is one of, int64
        (N,), -1 for all others.
    """
    codes = facts["reason"].to_numpy().copy()
    scores = facts["score"].to_numpy()
    if options.min_score is not None:
        codes[(codes == 0) & ~(scores >= options.min_score)] = CODES["score"]
    originals = np.full(len(codes), -1)
    if options.drop_duplicates:
        for row, original in find_copies(facts, vectors, codes == 0, reasons, options.min_cosine):
            codes[row], originals[row] = CODES["duplicate"], original
    if options.keep_share is not None:
        rest = np.flatnonzero(codes == 0)
        order = rest[np.argsort(-scores[rest], kind="stable")]
        codes[order[max(1, round(options.keep_share * len(rest))) :]] = CODES["share"]
    return codes, originals


def find_copies(
    facts: pa.Table,
    vectors: np.ndarray,
    candidates: np.ndarray,
    reasons: Sequence[str],
    min_cosine: float,
) -> list[tuple[int, int]]:
    """Rows whose image another row has, each with that other row.

    Args:
        facts, vectors, reasons: as for `decide`.
        candidates: whether a row is looked at, (N,).
        min_cosine: images are alike from this cosine on.
    """
    places = np.flatnonzero(candidates)
    rows = facts.take(pa.array(places))
    # The search orders equally large pictures by their time: here, by how badly captions match.
    scores = np.nan_to_num(rows["score"].to_numpy())
    rows = rows.append_column("modified", pa.array((-1e6 * scores).astype(np.int64)))
    groups = find_duplicates(rows, np.asarray(vectors[places]), reasons, min_cosine)
    return [
        (int(places[row]), int(places[group.places[0]]))
        for group in groups
        for row in group.places[1:]
    ]
