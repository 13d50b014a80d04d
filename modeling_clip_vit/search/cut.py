"""The cut between what fits a query and what does not.

A cosine alone does not say whether a picture fits: its usual height depends on the model, on the
query and on the picture. So both are centred, the query by what texts have in common (some hundred
fixed texts about everything) and the picture by what the pictures of the collection have in
common, and their product is measured in standard deviations of such products between the fixed
texts and the collection. The best of `N` pictures exceeds the mean by `sqrt(2 ln N)` deviations
by chance alone (the expected maximum of N normal variables), so this is subtracted: a *margin*
above zero is more than the best of a collection without the thing would reach.

Shape legend: `P` projection, `N` pictures, `T` texts, `K` hits.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from .query import EmbeddedQuery

#: Hits with this margin or more fit; the mean of what the even queries of
#: benchmarks/search_cut.py choose.
DEFAULT_MARGIN = 0.5
#: A collection of fewer pictures has no distribution to speak of.
LEAST_PICTURES = 30
#: Pictures that the deviations are measured on.
SAMPLE = 4096

TEXTS_FILE = Path(__file__).with_name("background_texts.tsv")


@cache
def background_texts() -> list[str]:
    """Texts about everything, in English and Chinese."""
    rows = TEXTS_FILE.read_text(encoding="utf-8").splitlines()
    return [text for row in rows for text in row.split("\t")]


@dataclass(frozen=True)
class Cut:
    """What cosines of a model and a collection are measured against.

    Args:
        text_mean: mean of the embeddings of the fixed texts, (P,).
        picture_mean: mean of the embeddings of the collection, (P,).
        text_deviation: standard deviation of the products of centred texts and pictures.
        picture_deviation: standard deviation of the products of two different centred pictures.
    """

    text_mean: np.ndarray
    picture_mean: np.ndarray
    text_deviation: float
    picture_deviation: float

    @classmethod
    def measure(cls, text_embeds: np.ndarray, picture_embeds: np.ndarray) -> "Cut | None":
        """Measure a collection; None if it has too few pictures.

        Args:
            text_embeds: of `background_texts`, (T, P).
            picture_embeds: of the collection or of a random sample of it, (N, P).
        """
        if len(picture_embeds) < LEAST_PICTURES:
            return None
        text_mean, picture_mean = text_embeds.mean(axis=0), picture_embeds.mean(axis=0)
        step = max(1, len(picture_embeds) // SAMPLE)
        pictures_NP = picture_embeds[::step][:SAMPLE] - picture_mean
        by_texts = (text_embeds - text_mean) @ pictures_NP.T
        some_NP = pictures_NP[:512]
        by_pictures = some_NP @ pictures_NP.T
        np.fill_diagonal(by_pictures[:, : len(some_NP)], np.nan)
        return cls(
            text_mean.astype(np.float32),
            picture_mean.astype(np.float32),
            max(float(by_texts.std()), 1e-6),
            max(float(np.nanstd(by_pictures)), 1e-6),
        )

    def margins(self, query: EmbeddedQuery, vectors: np.ndarray, searched: int) -> np.ndarray:
        """By how many standard deviations hits exceed what chance gives as the best: (K,).

        Args:
            query: the embedded query.
            vectors: embeddings of the hits, (K, P).
            searched: number of pictures among which they were found.
        """
        centre = query.text_weight * self.text_mean + query.picture_weight * self.picture_mean
        deviation = np.hypot(
            query.text_norm * self.text_deviation, query.picture_norm * self.picture_deviation
        )
        products = (vectors - self.picture_mean) @ (query.vector - centre)
        return products / deviation - np.sqrt(2 * np.log(max(searched, 2)))


def probabilities(scores: np.ndarray, scale: float, bias: float | None) -> np.ndarray | None:
    """The probability that a sigmoid model gives each pair; None for a softmax model, without one.

    Args:
        scores: cosines.
        scale: the factor on cosines that makes them logits.
        bias: what is added to logits.
    """
    if bias is None:
        return None
    return 1 / (1 + np.exp(-(scale * scores.astype(np.float64) + bias)))
