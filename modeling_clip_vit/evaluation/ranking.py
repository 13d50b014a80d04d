"""Ranking: how high the right items of each query rank, in tiles of the scores.

Shape legend: `Q` queries, `G` gallery items, `r` and `c` rows and columns of a tile: some of the
queries and of the items; `U` the largest number of right items of a query, `P` projection.
"""

from collections.abc import Iterator

import torch

#: Number of scores in memory at a time, whatever the number of queries and items.
SCORES_AT_ONCE = 2**21
#: Maximum width of a tile of scores. Both sides of a tile are long: with few queries against the
#: whole gallery, the matrix product would be memory-bound.
TILE_WIDTH = 2048


def rows_at_once(num_columns: int) -> int:
    """How many rows of scores to compute at a time."""
    return max(1, min(1024, SCORES_AT_ONCE // max(1, num_columns)))


def find_right_items(query_ids: torch.Tensor, gallery_ids: torch.Tensor) -> Iterator[torch.Tensor]:
    """Gallery positions of the right items, for a block of queries at a time: (r, U), padded with
    -1 where a query has fewer than others.

    Raises:
        ValueError: a query has no right item.
    """
    sorted_ids, order = gallery_ids.sort()
    first_Q = torch.searchsorted(sorted_ids, query_ids)
    count_Q = torch.searchsorted(sorted_ids, query_ids, right=True) - first_Q
    if not count_Q.all():
        lost = int((count_Q == 0).nonzero()[0, 0])
        raise ValueError(f"query {lost} asks for id {int(query_ids[lost])}, not in the gallery")
    size = rows_at_once(max(int(count_Q.max()), min(TILE_WIDTH, len(gallery_ids))))
    for first_r, count_r in zip(first_Q.split(size), count_Q.split(size), strict=True):
        nth_U = torch.arange(int(count_r.max()))
        items_rU = order[(first_r[:, None] + nth_U).clamp(max=len(order) - 1)]
        yield items_rU.masked_fill(nth_U >= count_r[:, None], -1)


def count_not_below(scores: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
    """How many scores of each row (r, c) are not below each of its limits (r, U), which rise.

    Returns:
        The counts, (r, U).
    """
    if limits.shape[1] == 1:
        below = (scores < limits).sum(dim=1, keepdim=True, dtype=torch.int32)
        return scores.shape[1] - below
    limits_reached_rc = torch.searchsorted(limits, scores.contiguous(), right=True)
    histogram = limits.new_zeros(len(limits), limits.shape[1] + 1, dtype=torch.int32)
    ones = torch.ones((), dtype=torch.int32).expand_as(limits_reached_rc)
    histogram.scatter_add_(1, limits_reached_rc, ones)
    return histogram.flip(1).cumsum(dim=1).flip(1)[:, 1:]


def count_before(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
    only_best: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """How many wrong items come before each right one, of some queries at a time.

    A wrong item with the same score counts as before, and so does one whose score is not a number:
    a model that gives everything the same embedding finds nothing. Memory holds a tile of scores,
    never Q * G.

    Args:
        query_embeds: of length 1, (Q, P).
        gallery_embeds: of length 1, (G, P).
        query_ids: what each query asks for, (Q,).
        gallery_ids: what each item is, (G,).
        only_best: count for the best right item of each query alone; U is 1 then.

    Yields:
        the counts, the best right item last, (r, U); and how many right items each query has, (r,):
        where it has fewer than U, the first counts mean nothing.

    Raises:
        ValueError: a query has no right item.
    """
    width = min(TILE_WIDTH, len(gallery_embeds))
    # All tiles have one shape, so that equal embeddings have equal scores in each of them: the last
    # begins earlier, and what it shares with the one before is left out.
    starts = [*range(0, len(gallery_embeds) - width, TILE_WIDTH), len(gallery_embeds) - width]
    stop, scores = 0, query_embeds.new_empty(0)
    for items_rU in find_right_items(query_ids, gallery_ids):
        queries = query_embeds[stop : (stop := stop + len(items_rU))]
        if scores.shape != (len(queries), width):
            # One buffer for all tiles: repeated allocation would fragment memory.
            scores = query_embeds.new_empty(len(queries), width)
        tiles = {}
        limits_rU = scores.new_full(items_rU.shape, -torch.inf)
        for start in starts:
            inside_rU = (items_rU >= start) & (items_rU < start + width)
            rows, which = inside_rU.nonzero(as_tuple=True)
            tiles[start] = rows, items_rU[rows, which] - start
            if len(rows):
                torch.mm(queries, gallery_embeds[start : start + width].t(), out=scores)
                found = scores[tiles[start]].nan_to_num(nan=torch.finfo(scores.dtype).min)
                limits_rU[rows, which] = found
        limits_rU = limits_rU.amax(1, keepdim=True) if only_best else limits_rU.sort(1).values
        before_rU, counted = torch.zeros(limits_rU.shape, dtype=torch.long), 0
        for start, right in tiles.items():
            torch.mm(queries, gallery_embeds[start : start + width].t(), out=scores)
            scores[right] = -torch.inf  # right items are not counted
            before_rU += count_not_below(scores[:, counted - start :], limits_rU)
            counted = start + width
        yield before_rU, (items_rU >= 0).sum(dim=1)


def rank_of_best_match(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
) -> torch.Tensor:
    """How many wrong items come before the best right one, for each query: (Q,), 0 is a hit.

    Arguments, ties and errors are those of `count_before`.
    """
    sides = query_embeds, gallery_embeds, query_ids, gallery_ids
    ranks, stop = torch.empty(len(query_embeds), dtype=torch.long), 0
    for before_rU, _ in count_before(*sides, only_best=True):
        ranks[stop : (stop := stop + len(before_rU))] = before_rU[:, 0]
    return ranks


def average_precision(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
) -> torch.Tensor:
    """Average precision of each query, (Q,): the mean, over its right items, of the share of right
    ones among those that come no later (Manning et al., 2008, section 8.4).

    Arguments, ties and errors are those of `count_before`.
    """
    sides = query_embeds, gallery_embeds, query_ids, gallery_ids
    values, stop = torch.empty(len(query_embeds)), 0
    for before_rU, count_r in count_before(*sides):
        place_U = torch.arange(before_rU.shape[1], 0, -1)  # among the right ones, the best last
        precision_rU = place_U / (place_U + before_rU)
        precision_rU.masked_fill_(place_U > count_r[:, None], 0)
        values[stop : (stop := stop + len(count_r))] = precision_rU.sum(dim=1) / count_r
    return values
