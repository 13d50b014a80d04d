"""Retrieval: how far up the right items come.

Shape legend: `Q` queries, `G` gallery items, `P` projection.
"""

from collections.abc import Hashable, Iterable, Iterator, Sequence

import torch

from ..data.errors import DataError

RECALL_AT = (1, 5, 10)
#: So many scores are in memory at a time, whatever the number of queries and items.
SCORES_AT_ONCE = 2**21


def rows_at_once(num_columns: int) -> int:
    """How many rows of scores to compute at a time."""
    return max(1, min(1024, SCORES_AT_ONCE // max(1, num_columns)))


def score_blocks(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
    block_size: int | None = None,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Scores of some queries at a time against the whole gallery, and which items are right.

    The scores are overwritten by those of the next queries.

    Raises:
        ValueError: a query has no right item.
    """
    block_size = block_size or rows_at_once(len(gallery_embeds))
    # One piece of memory for all: pieces that come and go leave holes that results then keep open.
    buffer_QG = query_embeds.new_empty(min(block_size, len(query_embeds)), len(gallery_embeds))
    for start in range(0, len(query_embeds), block_size):
        queries = query_embeds[start : start + block_size]
        right_QG = query_ids[start : start + block_size, None] == gallery_ids[None, :]
        if not right_QG.any(dim=1).all():
            lost = start + int((~right_QG.any(dim=1)).nonzero()[0, 0])
            raise ValueError(f"query {lost} asks for id {int(query_ids[lost])}, not in the gallery")
        yield torch.mm(queries, gallery_embeds.t(), out=buffer_QG[: len(queries)]), right_QG


def rank_of_best_match(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
    block_size: int | None = None,
) -> torch.Tensor:
    """How many wrong items come before the best right one, for each query: (Q,), 0 is a hit.

    A wrong item with the same score counts as before: a model that gives everything the same
    embedding finds nothing. Memory holds block_size * G scores, never Q * G.

    Args:
        query_embeds: of length 1, (Q, P).
        gallery_embeds: of length 1, (G, P).
        query_ids: what each query asks for, (Q,).
        gallery_ids: what each item is, (G,).
        block_size: queries at a time; None for so many that memory does not grow with G.

    Raises:
        ValueError: a query has no right item.
    """
    ranks, start = torch.empty(len(query_embeds), dtype=torch.long), 0
    for scores_QG, right_QG in score_blocks(
        query_embeds, gallery_embeds, query_ids, gallery_ids, block_size
    ):
        best_Q = scores_QG.masked_fill(~right_QG, -torch.inf).amax(dim=1)
        come_before_QG = (scores_QG >= best_Q[:, None]) & ~right_QG
        ranks[start : start + len(best_Q)] = come_before_QG.sum(dim=1)
        start += len(best_Q)
    return ranks


def average_precision(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
    block_size: int | None = None,
) -> torch.Tensor:
    """Average precision of each query, (Q,): the mean, over its right items, of the share of right
    ones among those that come no later (Manning et al., 2008, section 8.4).

    A wrong item with the same score counts as before. Arguments and errors are those of
    `rank_of_best_match`.
    """
    place_G = torch.arange(1, len(gallery_embeds) + 1)
    values, start = torch.empty(len(query_embeds)), 0
    for scores_QG, right_QG in score_blocks(
        query_embeds, gallery_embeds, query_ids, gallery_ids, block_size
    ):
        order_QG = scores_QG.double().sub_(right_QG * 1e-12).argsort(dim=1, descending=True)
        right_QG = right_QG.gather(1, order_QG)
        precision_QG = right_QG.cumsum(dim=1) / place_G
        mean_Q = (precision_QG * right_QG).sum(dim=1) / right_QG.sum(dim=1)
        values[start : start + len(mean_Q)] = mean_Q
        start += len(mean_Q)
    return values


def retrieval_metrics(ranks: torch.Tensor, at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """Recall at each k, from 0 to 1, and the median rank, where 1 is the first place.

    Recall counts a query whose best right item is among the first k, as is done for COCO and
    Flickr30k with several captions an image (Karpathy and Fei-Fei, 2015, section 4.2).
    """
    metrics = {f"R@{k}": (ranks < k).float().mean().item() for k in at}
    return {**metrics, "median_rank": ranks.float().median().item() + 1}


def measure_retrieval(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
) -> dict[str, float]:
    """Retrieval metrics of one direction; with `mAP` where a query has several right items."""
    sides = (query_embeds, gallery_embeds, query_ids, gallery_ids)
    metrics = retrieval_metrics(rank_of_best_match(*sides))
    if gallery_ids.unique().numel() < len(gallery_ids):
        metrics["mAP"] = average_precision(*sides).mean().item()
    return metrics


def list_captions(
    captions: Sequence[str | Sequence[str]],
    keys: Sequence[Hashable],
    rows: Iterable[int],
    column: str,
    path: str,
) -> tuple[list[str], list[Hashable]]:
    """The texts that ask, each with the key of what it asks for.

    A text asks once for a key, however many images that belongs to.

    Args:
        captions: of each row one, or several.
        keys: of each row; rows with an equal key belong together.
        rows: which of them ask.
        column, path: names in messages.

    Raises:
        DataError: a row has no caption, or an empty one.
    """
    asked: dict[tuple[str, Hashable], None] = {}
    for row in rows:
        given = captions[row]
        texts = [given] if isinstance(given, str) else list(given or [])
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(
                f"row {row} of {path!r} has an empty {column!r}: fill it or drop the row"
            )
        asked.update(((text, keys[row]), None) for text in texts)
    return [text for text, _ in asked], [key for _, key in asked]
