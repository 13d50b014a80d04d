"""Places of pictures on the map.

Shape legend: `N` pictures, `P` projection.
"""

import numpy as np

#: How much of a place is its rank along an axis, and how much its distance: ranks alone would
#: spread the pictures evenly, and hide which of them form groups.
RANK_SHARE = 0.6


def place_on_map(vectors: np.ndarray) -> np.ndarray:
    """Places of pictures in the unit square, those with similar embeddings close to each other.

    The axes are the two principal components of the embeddings, part distance and part rank. The
    sign of each is fixed by its largest entry, so that the same pictures always make the same map.

    Args:
        vectors: float32 (N, P).

    Returns:
        float32 (N, 2), from 0 to 1.
    """
    count = len(vectors)
    if count < 3:
        return np.linspace([0.3, 0.5], [0.7, 0.5], count, dtype=np.float32)
    centered_NP = vectors - vectors.mean(0)
    _, axes_PP = np.linalg.eigh(centered_NP.T.astype(np.float64) @ centered_NP)
    axes_P2 = axes_PP[:, [-1, -2]]
    axes_P2 *= np.sign(axes_P2[np.abs(axes_P2).argmax(0), [0, 1]])
    places_N2 = centered_NP @ axes_P2
    low, high = np.quantile(places_N2, [0.01, 0.99], axis=0)
    linear_N2 = np.clip((places_N2 - low) / np.maximum(high - low, 1e-12), 0, 1)
    ranks_N2 = places_N2.argsort(0).argsort(0) / (count - 1)
    return (RANK_SHARE * ranks_N2 + (1 - RANK_SHARE) * linear_N2).astype(np.float32)


def spread_evenly(count: int, wanted: int) -> np.ndarray:
    """Numbers of at most `wanted` of `count` rows, from all over them, in order."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(np.int64))
