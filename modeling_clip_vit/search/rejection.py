"""Whether a picture shows any of some classes at all.

Shape legend: `N` pictures, `C` classes, `T` texts, `P` projection.
"""

import numpy as np

#: From this margin on, the best class fits; benchmarks/none_of_these.py measures it.
LEAST_MARGIN = 0.6


def class_margins(
    image_embeds: np.ndarray, class_embeds: np.ndarray, background: np.ndarray
) -> np.ndarray:
    """By how much the best class of each picture exceeds what chance would give, (N,).

    As `search.cut` measures hits, in standard deviations above the mean of cosines with fixed
    texts about everything, less the expected maximum of C of them. The fixed texts nearest to the
    classes say the same as those, and are left out. The pictures play no part for each other: they
    may all be of one class. web/rejection.js does the same in a browser.

    Args:
        image_embeds: (N, P), with unit norm.
        class_embeds: (C, P), likewise.
        background: embeddings of the fixed texts, (T, P), likewise.
    """
    nearness = (background @ class_embeds.T).max(axis=1)
    others = background[np.argsort(nearness, kind="stable")[: -max(1, len(background) // 40)]]
    cosines_NT = image_embeds @ others.T
    best = (image_embeds @ class_embeds.T).max(axis=1)
    deviations = (best - cosines_NT.mean(axis=1)) / cosines_NT.std(axis=1, ddof=1).clip(1e-6)
    return deviations - np.sqrt(2 * np.log(max(len(class_embeds), 2)))
