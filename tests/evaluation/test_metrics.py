"""Metrics against slow, plain counting."""

import pytest
import torch
from torch.nn.functional import normalize

from modeling_clip_vit.evaluation.retrieval import rank_of_best_match, retrieval_metrics
from modeling_clip_vit.evaluation.zero_shot import zero_shot_accuracy


def embeds(rows: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.mark.parametrize("block_size", [1, 7, 1000])
def test_ranks_equal_sorting(block_size):
    queries, gallery = embeds(40, 0), embeds(60, 1)
    query_ids, gallery_ids = torch.arange(40) % 15, torch.arange(60) % 15
    ranks = rank_of_best_match(queries, gallery, query_ids, gallery_ids, block_size)
    for query, identity, rank in zip(queries, query_ids, ranks, strict=True):
        order = (gallery @ query).argsort(descending=True)
        first = (gallery_ids[order] == identity).nonzero()[0, 0]
        assert rank == first


def test_a_model_that_gives_everything_the_same_embedding_finds_nothing():
    same = normalize(torch.ones(20, 4), dim=-1)
    ids = torch.arange(20)
    ranks = rank_of_best_match(same, same, ids, ids)
    assert retrieval_metrics(ranks)["R@10"] == 0


def test_recall_counts_places():
    metrics = retrieval_metrics(torch.tensor([0, 0, 3, 7, 20]))
    assert metrics["R@1"] == pytest.approx(0.4)
    assert metrics["R@5"] == pytest.approx(0.6)
    assert metrics["R@10"] == pytest.approx(0.8)
    assert metrics["median_rank"] == 4


def test_a_query_without_a_right_item_is_refused():
    with pytest.raises(ValueError, match="query 1 asks for id 5"):
        rank_of_best_match(embeds(2, 0), embeds(2, 1), torch.tensor([0, 5]), torch.tensor([0, 1]))


def test_zero_shot_accuracy_and_majority():
    classes = torch.eye(3, 16)
    images = torch.eye(3, 16)[[0, 0, 1, 2]]
    scores = zero_shot_accuracy(images, classes, torch.tensor([0, 0, 1, 1]))
    assert scores == {"accuracy": 0.75, "majority": 0.5}
