"""Metrics against slow, plain counting, clip_benchmark and scikit-learn."""

import numpy as np
import pytest
import torch
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    balanced_accuracy_score,
    brier_score_loss,
    log_loss,
    top_k_accuracy_score,
)
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits
from torch.nn.functional import normalize
from torch.overrides import TorchFunctionMode

from modeling_clip_vit.data.captions import find_texts
from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.evaluation import ranking
from modeling_clip_vit.evaluation.class_names import average_templates, class_texts
from modeling_clip_vit.evaluation.dataset import list_captions
from modeling_clip_vit.evaluation.ranking import average_precision, rank_of_best_match
from modeling_clip_vit.evaluation.tasks.calibration import bin_confidences, measure_calibration
from modeling_clip_vit.evaluation.tasks.knn import measure_neighbours
from modeling_clip_vit.evaluation.tasks.linear_probe import fit, measure_linear_probe
from modeling_clip_vit.evaluation.tasks.retrieval import measure_retrieval, retrieval_metrics
from modeling_clip_vit.evaluation.tasks.zero_shot import measure_zero_shot


@pytest.fixture(autouse=True)
def one_thread():
    """scikit-learn brings an OpenMP of its own besides torch's, and the two can crash."""
    with threadpool_limits(1):
        yield


def embeds(rows: int, seed: int) -> torch.Tensor:
    return normalize(torch.randn(rows, 16, generator=torch.Generator().manual_seed(seed)), dim=-1)


def clustered(rows: int, seed: int, num_classes: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings that lie around those of their classes, `embeds(num_classes, 9)`."""
    labels = torch.randint(num_classes, (rows,), generator=torch.Generator().manual_seed(seed))
    return normalize(embeds(num_classes, 9)[labels] + 1.2 * embeds(rows, seed), dim=-1), labels


@pytest.mark.parametrize("tile", [(1, 1), (50, 7), (10_000, 59), (10_000, 60)])
def test_any_tiles_give_what_sorting_gives(tile, monkeypatch):
    scores_at_once, tile_width = tile
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", scores_at_once)
    monkeypatch.setattr(ranking, "TILE_WIDTH", tile_width)
    queries, gallery = embeds(40, 0), embeds(60, 1)
    query_ids = torch.arange(40) % 15
    gallery_ids = (torch.arange(60) % 17)[torch.randperm(60)]  # of some items three, of others four
    sides = queries, gallery, query_ids, gallery_ids
    ranks, precisions = rank_of_best_match(*sides), average_precision(*sides)
    for query, identity, rank, precision in zip(queries, query_ids, ranks, precisions, strict=True):
        right = gallery_ids[(gallery @ query).argsort(descending=True)] == identity
        assert rank == right.nonzero()[0, 0]
        places = right.nonzero()[:, 0] + 1
        shares = torch.arange(1, len(places) + 1) / places
        assert precision.item() == pytest.approx(shares.mean().item())


def test_a_model_that_gives_everything_the_same_embedding_finds_nothing():
    same = normalize(torch.ones(5000, 37), dim=-1)  # of several tiles, the last one narrower
    ids = torch.arange(len(same)) // 2
    assert rank_of_best_match(same, same, ids, ids).unique().tolist() == [4998]
    expected = (1 / 4999 + 2 / 5000) / 2
    assert average_precision(same, same, ids, ids).unique().tolist() == [pytest.approx(expected)]


def test_embeddings_that_are_not_numbers_find_nothing():
    queries, gallery = embeds(3, 0), embeds(6, 1)
    queries[1] = torch.nan
    ids = torch.arange(6) // 2
    assert rank_of_best_match(queries, queries, torch.arange(3), torch.arange(3)).tolist()[1] == 2
    gallery[2:4] = torch.nan
    assert rank_of_best_match(queries, gallery, torch.arange(3), ids)[1] == 4
    assert average_precision(queries, gallery, torch.arange(3), ids)[1] == pytest.approx(
        (1 / 5 + 2 / 6) / 2
    )


def test_recall_counts_places():
    metrics = retrieval_metrics(torch.tensor([0, 0, 3, 7, 20]))
    assert metrics["R@1"] == pytest.approx(0.4)
    assert metrics["R@5"] == pytest.approx(0.6)
    assert metrics["R@10"] == pytest.approx(0.8)
    assert metrics["median_rank"] == 4


def test_a_query_without_a_right_item_is_refused():
    with pytest.raises(ValueError, match="query 1 asks for id 5"):
        rank_of_best_match(embeds(2, 0), embeds(2, 1), torch.tensor([0, 5]), torch.tensor([0, 1]))


def test_retrieval_with_several_captions_agrees_with_clip_benchmark():
    images, texts = embeds(30, 0), embeds(90, 1)
    image_ids, text_ids = torch.arange(30), torch.arange(90) // 3
    scores, pairs = texts @ images.t(), text_ids[:, None] == image_ids[None, :]
    directions = {
        (texts, images, text_ids, image_ids): (scores, pairs),
        (images, texts, image_ids, text_ids): (scores.t(), pairs.t()),
    }
    for sides, (theirs, right) in directions.items():
        metrics = measure_retrieval(*sides)
        for k in (1, 5, 10):
            found = zeroshot_retrieval.recall_at_k(theirs, right, k) > 0
            assert metrics[f"R@{k}"] == pytest.approx(found.float().mean().item(), abs=1e-6)
        expected = zeroshot_classification.average_precision_per_class(theirs.t(), right.t())
        torch.testing.assert_close(average_precision(*sides).float(), expected, atol=1e-6, rtol=0)
    assert metrics["mAP"] == pytest.approx(expected.mean().item(), abs=1e-6)


def test_memory_does_not_grow_with_queries_times_items(monkeypatch):
    largest = 0

    class Watch(TorchFunctionMode):
        def __torch_function__(self, function, types, arguments=(), keywords=None):
            nonlocal largest
            result = function(*arguments, **(keywords or {}))
            if isinstance(result, torch.Tensor):
                largest = max(largest, result.untyped_storage().nbytes() // result.itemsize)
            return result

    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", 1000)
    monkeypatch.setattr(ranking, "TILE_WIDTH", 50)
    sides = (embeds(300, 0), embeds(400, 1), torch.arange(300) % 100, torch.arange(400) % 100)
    with Watch():
        measure_retrieval(*sides)
    assert largest <= 400 * 16  # the gallery's embeddings; the scores would be 120,000


def test_a_text_asks_once_for_a_key():
    captions, keys = ["a cat", ["a cat", "a pet"], "a dog"], ["cat", "cat", "dog"]
    texts, asked = list_captions(captions, keys, range(3), "caption", "data")
    assert list_captions(captions, keys, [2], "caption", "data") == (["a dog"], ["dog"])
    assert list(zip(texts, asked, strict=True)) == [
        ("a cat", "cat"),
        ("a pet", "cat"),
        ("a dog", "dog"),
    ]


@pytest.mark.parametrize("empty", ["", "  ", None, [], ["fine", ""]])
def test_an_empty_caption_asks_nothing(empty):
    texts, keys = list_captions(["one", empty], [0, 1], range(2), "caption", "data")
    more = find_texts(empty)
    assert texts == ["one", *more]
    assert keys == [0, *[1] * len(more)]
    with pytest.raises(DataError, match="every 'caption' of 'data' is empty"):
        list_captions([""], [0], range(1), "caption", "data")


def test_zero_shot_agrees_with_scikit_learn():
    """clip_benchmark takes its recall from there; its top k fails with NumPy 2.4."""
    images, labels = clustered(300, 2)
    classes = embeds(7, 9)
    logits = images @ classes.t()
    metrics = measure_zero_shot(images, classes, labels)
    for k, name in {1: "accuracy", 5: "accuracy_top_5"}.items():
        assert metrics[name] == pytest.approx(top_k_accuracy_score(labels, logits, k=k), abs=1e-6)
    assert metrics["mean_per_class_recall"] == pytest.approx(
        balanced_accuracy_score(labels, logits.argmax(dim=1)), abs=1e-6
    )


def test_zero_shot_accuracy_and_majority():
    classes = torch.eye(3, 16)
    images = torch.eye(3, 16)[[0, 0, 1, 2]]
    scores = measure_zero_shot(images, classes, torch.tensor([0, 0, 1, 1]))
    assert scores == {"accuracy": 0.75, "majority": 0.5, "mean_per_class_recall": 0.75}


def test_phrases_are_averaged_as_clip_benchmark_does():
    texts = class_texts(["sports_car", "cat"], ["en"])
    assert texts[0] == "a photo of a sports car."
    vectors = dict(zip(texts, embeds(len(texts), 3), strict=True))

    class Model:
        def encode_text(self, asked):
            return torch.stack(asked)

    class Tokens(list):
        def to(self, device):
            return self

    theirs = zeroshot_classification.zero_shot_classifier(
        Model(),
        lambda asked: Tokens(vectors[text] for text in asked),
        ["sports car", "cat"],
        [text.replace("sports car", "{c}") for text in texts[: len(texts) // 2]],
        "cpu",
        amp=False,
    )
    ours = average_templates(torch.stack([vectors[text] for text in texts]), 2)
    torch.testing.assert_close(ours.t(), theirs)


def test_several_sets_of_phrases_are_one_ensemble():
    both = class_texts(["cat"], ["en", "zh", "en"])
    assert both == class_texts(["cat"], ["en"]) + class_texts(["cat"], ["zh"])


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_the_linear_probe_is_scikit_learns_logistic_regression(penalty):
    images, labels = clustered(300, 4)
    others, _ = clustered(200, 5)
    weights = fit(images, labels, penalty, torch.zeros(7, 17))
    theirs = LogisticRegression(C=1 / (300 * penalty), tol=1e-8, max_iter=5000)
    theirs.fit(images.double().numpy(), labels.numpy())
    ours = torch.nn.functional.linear(others, weights[:, :-1], weights[:, -1]).softmax(dim=1)
    np.testing.assert_allclose(ours, theirs.predict_proba(others.double().numpy()), atol=1e-3)


def test_the_linear_probe_chooses_its_penalty_and_learns():
    images, labels = clustered(400, 4)
    others, other_labels = clustered(300, 5)
    metrics = measure_linear_probe(images, labels, others, other_labels, 7)
    theirs = max(
        LogisticRegression(C=10.0**power, max_iter=5000)
        .fit(images.numpy(), labels.numpy())
        .score(others.numpy(), other_labels.numpy())
        for power in range(-3, 4)
    )
    assert metrics["accuracy"] >= theirs - 0.03
    noise = torch.randint(7, (400,), generator=torch.Generator().manual_seed(1))
    strong = measure_linear_probe(embeds(400, 6), noise, others, other_labels, 7)
    assert strong["penalty"] >= 1e-2


def test_neighbours_vote_as_scikit_learns():
    images, labels = clustered(200, 4)
    others, other_labels = clustered(150, 5)
    metrics = measure_neighbours(images, labels, others, other_labels, 7)
    # The squared distance of vectors of length 1 is 2 - 2 cosine.
    theirs = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07))
    theirs.fit(images.double().numpy(), labels.numpy())
    expected = theirs.predict(others.double().numpy()) == other_labels.numpy()
    assert metrics["accuracy"] == pytest.approx(expected.mean(), abs=1e-6)


def test_calibration_against_scikit_learn_and_plain_counting():
    images, labels = clustered(500, 6)
    classes = embeds(7, 9)
    metrics, _ = measure_calibration(images, classes, labels, scale=20.0, bias=None)
    probabilities = (20 * (images @ classes.t()).double()).softmax(dim=1).numpy()
    assert metrics["NLL"] == pytest.approx(log_loss(labels, probabilities), abs=1e-6)
    brier = brier_score_loss(labels, probabilities, labels=list(range(7)), scale_by_half=False)
    assert metrics["Brier"] == pytest.approx(brier, abs=1e-6)
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels.numpy()
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics["ECE"] == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("bias", [None, -12.0])
def test_the_fitted_temperature_is_the_likeliest(bias):
    images, labels = clustered(500, 6)
    classes = embeds(7, 9)
    metrics, diagrams = measure_calibration(images, classes, labels, scale=60.0, bias=bias)

    def likelihood(temperature: float) -> float:
        shift = None if bias is None else bias / temperature
        scores, _ = measure_calibration(images, classes, labels, 60.0 / temperature, shift)
        return scores["NLL"]

    best = metrics["temperature"]
    assert likelihood(best) < min(likelihood(best * 0.98), likelihood(best * 1.02))
    # Fitted on half, a temperature is as good for the other half but for chance.
    assert metrics["fitted_NLL"] == pytest.approx(likelihood(best), rel=0.05)
    assert metrics["fitted_NLL"] < metrics["NLL"]
    assert diagrams["as it is"].share.sum() == pytest.approx(1)


def test_sigmoid_probabilities_are_each_classes_own():
    images, labels = clustered(100, 6)
    classes = embeds(7, 9)
    metrics, _ = measure_calibration(images, classes, labels, scale=30.0, bias=-10.0)
    logits = (30 * images @ classes.t() - 10).double().numpy()
    own = 1 / (1 + np.exp(-logits))
    targets = np.eye(7)[labels.numpy()]
    likelihood = -(targets * np.log(own) + (1 - targets) * np.log(1 - own)).sum(axis=1).mean()
    assert metrics["NLL"] == pytest.approx(likelihood, rel=1e-5)
    assert metrics["Brier"] == pytest.approx(((own - targets) ** 2).sum(axis=1).mean(), rel=1e-5)


def test_full_confidence_and_edges_fall_into_bins():
    diagram = bin_confidences(torch.tensor([0.0, 0.5, 0.5001, 1.0]), torch.tensor([1, 1, 0, 1]), 2)
    assert diagram.share.tolist() == [0.5, 0.5]
    assert diagram.accuracy.tolist() == [1.0, 0.5]
