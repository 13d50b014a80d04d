"""Pictures of an index that are the same, and pictures that are alike.

An embedding finds what is alike, not what is the same: two photographs of one beach have nearly
equal vectors. So the two questions are answered apart. *Same* are files with equal bytes, with
equal pixels (other metadata or another format), or with nearly equal perceptual hashes and vectors
(resized or compressed again). *Alike* are other pictures with nearly equal vectors.

Shape legend: `N` pictures, `P` projection.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

#: Why pictures are a group, from the strictest reason on.
REASONS = ("bytes", "pixels", "perceptual", "alike")
#: The most of their 64 bits in which perceptual hashes of the same picture differ.
SAME_BITS = 4
#: The vectors of the same picture also have at least this cosine, since flat drawings often have
#: equal hashes.
SAME_COSINE = 0.98
BLOCK = 2048


@dataclass(frozen=True)
class Group:
    """Pictures that belong together.

    Args:
        reason: one of `REASONS`.
        places: of the pictures in the index: the largest first, of equal ones the oldest.
        cosines: of each with the first.
    """

    reason: str
    places: list[int]
    cosines: list[float]


def find_duplicates(
    rows: pa.Table, vectors: np.ndarray, reasons: Sequence[str], min_cosine: float
) -> list[Group]:
    """Groups of pictures that are the same or alike; a picture is in one group at most.

    Args:
        rows: with `sha256`, `pixel_hash`, `perceptual_hash`, `width`, `height` and `modified`.
        vectors: of the same pictures, (N, P), of length 1.
        reasons: which of `REASONS` are looked for.
        min_cosine: pictures are alike from this cosine on.
    """
    order = by_quality(rows)
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    taken = np.zeros(rows.num_rows, bool)
    groups = []
    for reason, column in (("bytes", "sha256"), ("pixels", "pixel_hash")):
        if reason not in reasons:
            continue
        for equal in equal_values(rows[column], taken):
            places = equal[np.argsort(rank[equal])]
            groups.append(make_group(reason, places, vectors))
            # The first stays, so that what is alike to it is found as well.
            taken[places[1:]] = True
    if "perceptual" in reasons:
        hashes = rows["perceptual_hash"].combine_chunks()
        has_hash = hashes.is_valid().to_numpy(zero_copy_only=False)
        bits = hashes.fill_null(0).to_numpy(zero_copy_only=False)
        near = find_near("perceptual", vectors, order, taken | ~has_hash, SAME_COSINE, bits)
        for group in near:
            taken[group.places[1:]] = True
        groups += near
    if "alike" in reasons:
        groups += find_near("alike", vectors, order, taken, min_cosine)
    return groups


def make_group(reason: str, places: np.ndarray, vectors: np.ndarray) -> Group:
    """A group with its cosines."""
    cosines = vectors[places] @ vectors[places[0]]
    return Group(reason, places.tolist(), cosines.tolist())


def by_quality(rows: pa.Table) -> np.ndarray:
    """Places of all pictures: those with the most pixels first, of equal ones the oldest."""

    def numbers(name: str) -> np.ndarray:
        values = rows[name].combine_chunks()
        if pa.types.is_timestamp(values.type):
            values = values.view(pa.int64())
        return np.nan_to_num(values.to_numpy(zero_copy_only=False).astype(np.float64))

    pixels = numbers("width") * numbers("height")
    return np.lexsort((np.arange(rows.num_rows), numbers("modified"), -pixels))


def equal_values(column: pa.ChunkedArray, taken: np.ndarray) -> Iterator[np.ndarray]:
    """Places with equal values, two or more at a time; missing values equal nothing.

    Args:
        column: the values.
        taken: places that are left out.
    """
    array = column.combine_chunks()
    free = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False) & ~taken)
    codes = array.dictionary_encode().indices.to_numpy(zero_copy_only=False)[free].astype(np.int64)
    order = np.argsort(codes, kind="stable")
    starts = np.flatnonzero(np.diff(codes[order], prepend=-1))
    for places in np.split(order, starts[1:]):
        if len(places) > 1:
            yield free[places]


def find_near(
    reason: str,
    vectors: np.ndarray,
    order: np.ndarray,
    taken: np.ndarray,
    min_cosine: float,
    hashes: np.ndarray | None = None,
) -> list[Group]:
    """Groups around their best picture, in which each is near to that one: no chains.

    Args:
        reason: of the groups.
        vectors: (N, P), of length 1.
        order: places of the pictures, the best first.
        taken: places that are left out.
        min_cosine: the least cosine with the best picture of a group.
        hashes: perceptual hashes, uint64 (N,), which must then differ in a few bits at most.
    """
    free = order[~taken[order]]
    ordered_NP = vectors[free]
    used = np.zeros(len(free), bool)
    groups = []
    for start in range(0, len(free), BLOCK):
        # Pairs within the block and with later pictures, each once.
        cosines = ordered_NP[start : start + BLOCK] @ ordered_NP[start:].T
        firsts, seconds = (it + start for it in np.nonzero(np.triu(cosines >= min_cosine, k=1)))
        if hashes is not None:
            bits = np.bitwise_count(hashes[free[firsts]] ^ hashes[free[seconds]])
            firsts, seconds = firsts[bits <= SAME_BITS], seconds[bits <= SAME_BITS]
        starts = np.flatnonzero(np.diff(firsts, prepend=-1))
        for first, others in zip(firsts[starts], np.split(seconds, starts[1:]), strict=False):
            others = others[~used[others]]
            if used[first] or not len(others):
                continue
            used[first] = used[others] = True
            places = free[np.concatenate([[first], others])]
            groups.append(make_group(reason, places, vectors))
    return groups
