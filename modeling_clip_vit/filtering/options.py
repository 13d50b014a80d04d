"""What decides which rows of a dataset are kept."""

from dataclasses import dataclass, field

from ..data.errors import DataError, check_option
from ..search.duplicates import REASONS as DUPLICATE_REASONS

#: Kinds of duplicates that are found by comparing embeddings.
EMBEDDED_REASONS = frozenset(("perceptual", "alike"))


@dataclass
class FilterOptions:
    """Conditions that a row must meet, and how the dataset is read.

    A row with several captions must meet the conditions on captions with each of them, and its
    score is their mean.

    Args:
        split: split to filter.
        image_column: column with the images; None guesses it.
        caption_columns: columns with the captions; empty guesses them.
        min_score: smallest cosine similarity of image and caption.
        keep_share: share of the rows that meet all other conditions, from 0 to 1: those with the
            highest scores are kept.
        min_side: smallest length of the image's shorter side in pixels.
        max_aspect: largest ratio of the longer to the shorter side.
        min_words: smallest number of words, separated by spaces, of a caption; meaningless for
            languages that are written without spaces.
        min_characters: smallest number of characters of a caption.
        max_characters: largest number of characters of a caption.
        languages: ISO 639 codes of the languages that captions may have, such as en,zh; empty
            allows all.
        min_language_probability: smallest probability that a caption is in one of `languages`.
            Lower it for captions of one to three words, which could be in many languages.
        drop_duplicates: whether to keep only one of the rows with the same image: the largest, and
            of equally large ones the one with the highest score.
        reasons: with `drop_duplicates`, what makes images the same: bytes (equal files), pixels
            (equal pixels in other files), perceptual (resized or compressed again), alike (nearly
            equal embeddings).
        min_cosine: with `reasons` alike, cosine similarity from which images are alike.
        copy_images: whether to copy images that are files into the new dataset; by default it
            refers to them by their paths. Images in tars and Parquet are always copied.
        batch_size: number of rows to read and embed at a time.
    """

    split: str = "train"
    image_column: str | None = None
    caption_columns: list[str] = field(default_factory=list)
    min_score: float | None = None
    keep_share: float | None = None
    min_side: int | None = None
    max_aspect: float | None = None
    min_words: int | None = None
    min_characters: int | None = None
    max_characters: int | None = None
    languages: list[str] = field(default_factory=list)
    min_language_probability: float = 0.02
    drop_duplicates: bool = False
    reasons: list[str] = field(default_factory=lambda: ["bytes", "pixels", "perceptual"])
    min_cosine: float = 0.95
    copy_images: bool = False
    batch_size: int = 128

    def __post_init__(self):
        def check(name: str, is_allowed: bool, allowed: str):
            value = getattr(self, name)
            check_option(value is None or is_allowed, self, name, allowed)

        check("min_score", -1 <= (self.min_score or 0) <= 1, "from -1 to 1")
        check("keep_share", 0 < (self.keep_share or 0) <= 1, "above 0, up to 1")
        check("max_aspect", (self.max_aspect or 0) >= 1, "at least 1")
        for name in ("min_side", "min_words", "min_characters", "max_characters", "batch_size"):
            check(name, (getattr(self, name) or 0) >= 1, "at least 1")
        check("min_language_probability", 0 <= self.min_language_probability <= 1, "from 0 to 1")
        check("min_cosine", 0 < self.min_cosine <= 1, "above 0, up to 1")
        unknown = [name for name in self.reasons if name not in DUPLICATE_REASONS]
        check("reasons", not unknown and bool(self.reasons), f"of {', '.join(DUPLICATE_REASONS)}")

    def check_without_model(self):
        """Reject conditions that need a model.

        Raises:
            DataError: there is one.
        """
        scored = [name for name in ("min_score", "keep_share") if getattr(self, name) is not None]
        needed = EMBEDDED_REASONS.intersection(self.reasons) if self.drop_duplicates else ()
        scored += [f"reasons: {name}" for name in self.reasons if name in needed]
        if scored:
            raise DataError(
                f"{', '.join(scored)} needs a model: give a checkpoint in place of none"
            )

    @property
    def compares_embeddings(self) -> bool:
        """Whether duplicates are found by embeddings."""
        return self.drop_duplicates and not EMBEDDED_REASONS.isdisjoint(self.reasons)
