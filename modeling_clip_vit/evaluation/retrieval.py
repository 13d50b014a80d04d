"""Retrieval: how far up the right item comes.

Shape legend: `Q` queries, `G` gallery items, `P` projection.
"""

from collections.abc import Sequence

import torch

RECALL_AT = (1, 5, 10)


def rank_of_best_match(
    query_embeds: torch.Tensor,
    gallery_embeds: torch.Tensor,
    query_ids: torch.Tensor,
    gallery_ids: torch.Tensor,
    block_size: int = 1024,
) -> torch.Tensor:
    """How many wrong items come before the best right one, for each query: (Q,), 0 is a hit.

    A wrong item with the same score counts as before: a model that gives everything the same
    embedding finds nothing. Memory grows with block_size * G, not with Q * G.

    Args:
        query_embeds: of length 1, (Q, P).
        gallery_embeds: of length 1, (G, P).
        query_ids: what each query asks for, (Q,).
        gallery_ids: what each item is, (G,).
        block_size: queries at a time.

    Raises:
        ValueError: a query has no right item.
    """
    ranks = []
    for start in range(0, len(query_embeds), block_size):
        scores_QG = query_embeds[start : start + block_size] @ gallery_embeds.t()
        right_QG = query_ids[start : start + block_size, None] == gallery_ids[None, :]
        if not right_QG.any(dim=1).all():
            lost = start + int((~right_QG.any(dim=1)).nonzero()[0, 0])
            raise ValueError(f"query {lost} asks for id {int(query_ids[lost])}, not in the gallery")
        best_Q = scores_QG.masked_fill(~right_QG, -torch.inf).amax(dim=1)
        ranks.append(((scores_QG >= best_Q[:, None]) & ~right_QG).sum(dim=1))
    return torch.cat(ranks)


def retrieval_metrics(ranks: torch.Tensor, at: Sequence[int] = RECALL_AT) -> dict[str, float]:
    """Recall at each k, from 0 to 1, and the median rank, where 1 is the first place."""
    metrics = {f"R@{k}": (ranks < k).float().mean().item() for k in at}
    return {**metrics, "median_rank": ranks.float().median().item() + 1}
