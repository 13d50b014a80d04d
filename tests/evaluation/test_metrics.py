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

from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.evaluation import ranking
from modeling_clip_vit.evaluation.dataset import list_captions
from modeling_clip_vit.evaluation.ranking import average_precision, rank_of_best_match
from modeling_clip_vit.evaluation.tasks.calibration import bin_confidences, measure_calibration
from modeling_clip_vit.evaluation.tasks.knn import measure_neighbours
from modeling_clip_vit.evaluation.tasks.linear_probe import fit, measure_linear_probe
from modeling_clip_vit.evaluation.tasks.retrieval import measure_retrieval, retrieval_metrics
from modeling_clip_vit.evaluation.tasks.zero_shot import measure_zero_shot
from modeling_clip_vit.inference.class_names import average_templates, class_texts


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


@pytest.fixture(params=[(1, 1), (50, 7), (10_000, 59), (10_000, 60)])
def tiled(request, monkeypatch) -> tuple:
    """Queries and a gallery, and the ids of both, ranked in tiles of some size."""
    scores_at_once, tile_width = request.param
    monkeypatch.setattr(ranking, "SCORES_AT_ONCE", scores_at_once)
    monkeypatch.setattr(ranking, "TILE_WIDTH", tile_width)
    shuffled = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    gallery_ids = (torch.arange(60) % 17)[shuffled]  # of some items three, of others four
    return embeds(40, 0), embeds(60, 1), torch.arange(40) % 15, gallery_ids


def places_by_sorting(query_embeds, gallery_embeds, query_ids, gallery_ids):
    """For each query the places of its right items, which count from 1."""
    for query, identity in zip(query_embeds, query_ids, strict=True):
        order = (gallery_embeds @ query).argsort(descending=True)
        yield (gallery_ids[order] == identity).nonzero()[:, 0] + 1


def test_any_tiles_give_the_ranks_that_sorting_gives(tiled):
    expected = [int(places[0]) - 1 for places in places_by_sorting(*tiled)]
    assert rank_of_best_match(*tiled).tolist() == expected


def test_any_tiles_give_the_average_precision_that_sorting_gives(tiled):
    expected = [
        (torch.arange(1, len(places) + 1) / places).mean().item()
        for places in places_by_sorting(*tiled)
    ]
    assert average_precision(*tiled).tolist() == pytest.approx(expected)


@pytest.fixture(scope="module")
def all_the_same() -> tuple:
    """Both sides of a search in which all embeddings are equal, of pairs with an id each."""
    same = normalize(torch.ones(5000, 37), dim=-1)  # of several tiles, the last one narrower
    ids = torch.arange(len(same)) // 2
    return same, same, ids, ids


def test_a_model_that_gives_everything_the_same_embedding_finds_nothing(all_the_same):
    assert rank_of_best_match(*all_the_same).unique().tolist() == [4998]


def test_a_model_that_gives_everything_the_same_embedding_has_no_precision(all_the_same):
    expected = (1 / 4999 + 2 / 5000) / 2
    assert average_precision(*all_the_same).unique().tolist() == [pytest.approx(expected)]


def test_a_query_that_is_not_a_number_finds_nothing():
    queries, ids = embeds(3, 0), torch.arange(3)
    queries[1] = torch.nan
    assert rank_of_best_match(queries, embeds(3, 1), ids, ids)[1] == 2


@pytest.fixture
def lost() -> tuple:
    """Three queries, and a gallery in which both right items of the second are not numbers."""
    gallery = embeds(6, 1)
    gallery[2:4] = torch.nan
    return embeds(3, 0), gallery, torch.arange(3), torch.arange(6) // 2


def test_items_that_are_not_numbers_are_not_found(lost):
    assert rank_of_best_match(*lost)[1] == 4


def test_items_that_are_not_numbers_come_last_in_the_average_precision(lost):
    assert average_precision(*lost)[1] == pytest.approx((1 / 5 + 2 / 6) / 2)


def test_recall_counts_places():
    metrics = retrieval_metrics(torch.tensor([0, 0, 3, 7, 20]))
    assert metrics["R@1"] == pytest.approx(0.4)
    assert metrics["R@5"] == pytest.approx(0.6)
    assert metrics["R@10"] == pytest.approx(0.8)
    assert metrics["median_rank"] == 4


def test_a_query_without_a_right_item_is_refused():
    with pytest.raises(ValueError, match="query 1 asks for id 5"):
        rank_of_best_match(embeds(2, 0), embeds(2, 1), torch.tensor([0, 5]), torch.tensor([0, 1]))


@pytest.fixture(params=["text_to_image", "image_to_text"])
def several_captions(request) -> tuple[tuple, torch.Tensor, torch.Tensor]:
    """Both sides of a search of 30 images with three captions each; its scores and its pairs."""
    images, texts = embeds(30, 0), embeds(90, 1)
    image_ids, text_ids = torch.arange(30), torch.arange(90) // 3
    sides = texts, images, text_ids, image_ids
    if request.param == "image_to_text":
        sides = images, texts, image_ids, text_ids
    return sides, sides[0] @ sides[1].t(), sides[2][:, None] == sides[3]


@pytest.mark.parametrize("k", [1, 5, 10])
def test_recall_with_several_captions_is_clip_benchmarks(k, several_captions):
    sides, scores, pairs = several_captions
    hits = zeroshot_retrieval.recall_at_k(scores, pairs, k) > 0
    assert measure_retrieval(*sides)[f"R@{k}"] == pytest.approx(hits.float().mean().item())


def test_average_precision_with_several_captions_is_clip_benchmarks(several_captions):
    sides, scores, pairs = several_captions
    expected = zeroshot_classification.average_precision_per_class(scores.t(), pairs.t())
    torch.testing.assert_close(average_precision(*sides).float(), expected, atol=1e-6, rtol=0)


def test_the_mean_average_precision_is_that_of_all_queries():
    sides = embeds(30, 0), embeds(90, 1), torch.arange(30), torch.arange(90) // 3
    expected = average_precision(*sides).mean().item()
    assert measure_retrieval(*sides)["mAP"] == pytest.approx(expected)


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
    assert texts == ["a cat", "a pet", "a dog"]
    assert asked == ["cat", "cat", "dog"]


def test_only_the_texts_of_the_given_rows_ask():
    captions, keys = ["a cat", "a pet", "a dog"], ["cat", "cat", "dog"]
    assert list_captions(captions, keys, [2], "caption", "data") == (["a dog"], ["dog"])


@pytest.mark.parametrize(
    ("empty", "texts"), [("", []), ("  ", []), (None, []), ([], []), (["fine", ""], ["fine"])]
)
def test_an_empty_caption_asks_nothing(empty, texts):
    found, keys = list_captions(["one", empty], [0, 1], range(2), "caption", "data")
    assert found == ["one", *texts]
    assert keys == [0, *(1 for _ in texts)]


def test_a_column_of_empty_captions_is_rejected():
    with pytest.raises(DataError, match="every 'caption' of 'data' is empty"):
        list_captions([""], [0], range(1), "caption", "data")


@pytest.mark.parametrize(("k", "name"), [(1, "accuracy"), (5, "accuracy_top_5")])
def test_zero_shot_accuracy_is_scikit_learns(k, name):
    """The top k of clip_benchmark fails with NumPy 2.4."""
    images, labels = clustered(300, 2)
    classes = embeds(7, 9)
    expected = top_k_accuracy_score(labels, images @ classes.t(), k=k)
    assert measure_zero_shot(images, classes, labels)[name] == pytest.approx(expected, abs=1e-6)


def test_zero_shot_recall_is_scikit_learns():
    """clip_benchmark takes its recall from there."""
    images, labels = clustered(300, 2)
    classes = embeds(7, 9)
    expected = balanced_accuracy_score(labels, (images @ classes.t()).argmax(dim=1))
    measured = measure_zero_shot(images, classes, labels)["mean_per_class_recall"]
    assert measured == pytest.approx(expected, abs=1e-6)


def test_zero_shot_accuracy_and_majority():
    classes = torch.eye(3, 16)
    images = torch.eye(3, 16)[[0, 0, 1, 2]]
    scores = measure_zero_shot(images, classes, torch.tensor([0, 0, 1, 1]))
    assert scores == {"accuracy": 0.75, "majority": 0.5, "mean_per_class_recall": 0.75}


def test_class_names_are_cleaned_before_they_go_into_templates():
    assert class_texts(["sports_car"], ["en"])[0] == "a photo of a sports car."


def test_templates_are_averaged_as_clip_benchmark_does():
    texts = class_texts(["sports car", "cat"], ["en"])
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


def test_the_linear_probe_does_as_well_as_the_best_of_scikit_learn():
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


def test_the_linear_probe_of_noise_chooses_a_strong_penalty():
    noise = torch.randint(7, (400,), generator=torch.Generator().manual_seed(1))
    metrics = measure_linear_probe(embeds(400, 6), noise, *clustered(300, 5), 7)
    assert metrics["penalty"] >= 1e-2


def test_neighbours_vote_as_scikit_learns():
    images, labels = clustered(200, 4)
    others, other_labels = clustered(150, 5)
    metrics = measure_neighbours(images, labels, others, other_labels, 7)
    # The squared distance of vectors of length 1 is 2 - 2 cosine.
    theirs = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.07))
    theirs.fit(images.double().numpy(), labels.numpy())
    expected = theirs.predict(others.double().numpy()) == other_labels.numpy()
    assert metrics["accuracy"] == pytest.approx(expected.mean(), abs=1e-6)


@pytest.fixture(scope="module")
def calibrated() -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """The calibration of a softmax model; its probabilities and the labels."""
    images, labels = clustered(500, 6)
    classes = embeds(7, 9)
    metrics, _ = measure_calibration(images, classes, labels, scale=20.0, bias=None)
    probabilities = (20 * (images @ classes.t()).double()).softmax(dim=1)
    return metrics, probabilities.numpy(), labels.numpy()


def test_the_likelihood_is_scikit_learns(calibrated):
    metrics, probabilities, labels = calibrated
    assert metrics["NLL"] == pytest.approx(log_loss(labels, probabilities), abs=1e-6)


def test_the_brier_score_is_scikit_learns(calibrated):
    metrics, probabilities, labels = calibrated
    options = {"labels": list(range(7)), "scale_by_half": False}
    expected = brier_score_loss(labels, probabilities, **options)
    assert metrics["Brier"] == pytest.approx(expected, abs=1e-6)


def test_the_calibration_error_is_what_counting_gives(calibrated):
    metrics, probabilities, labels = calibrated
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    error = 0.0
    for low in range(15):
        inside = (confidence > low / 15) & (confidence <= (low + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert metrics["ECE"] == pytest.approx(error, abs=1e-6)


@pytest.fixture(params=[None, -12.0], ids=["softmax", "sigmoid"])
def overconfident(request):
    """The calibration of a model with a large scale, and its likelihood at a temperature."""
    images, labels = clustered(500, 6)
    classes, bias = embeds(7, 9), request.param

    def likelihood(temperature: float) -> float:
        shift = None if bias is None else bias / temperature
        scores, _ = measure_calibration(images, classes, labels, 60.0 / temperature, shift)
        return scores["NLL"]

    metrics, _ = measure_calibration(images, classes, labels, scale=60.0, bias=bias)
    return metrics, likelihood


def test_the_fitted_temperature_is_the_likeliest(overconfident):
    metrics, likelihood = overconfident
    best = metrics["temperature"]
    assert likelihood(best) < min(likelihood(best * 0.98), likelihood(best * 1.02))


def test_a_temperature_is_as_good_for_the_half_that_it_was_not_fitted_to(overconfident):
    metrics, likelihood = overconfident
    assert metrics["fitted_NLL"] == pytest.approx(likelihood(metrics["temperature"]), rel=0.05)
    assert metrics["fitted_NLL"] < metrics["NLL"]


@pytest.fixture(scope="module")
def sigmoid_calibrated() -> tuple[dict[str, float], np.ndarray, np.ndarray]:
    """The calibration of a sigmoid model; its probability of each class, and the targets."""
    images, labels = clustered(100, 6)
    classes = embeds(7, 9)
    metrics, _ = measure_calibration(images, classes, labels, scale=30.0, bias=-10.0)
    logits = (30 * images @ classes.t() - 10).double().numpy()
    return metrics, 1 / (1 + np.exp(-logits)), np.eye(7)[labels.numpy()]


def test_the_likelihood_of_a_sigmoid_is_a_sum_over_classes(sigmoid_calibrated):
    metrics, probabilities, targets = sigmoid_calibrated
    terms = targets * np.log(probabilities) + (1 - targets) * np.log(1 - probabilities)
    assert metrics["NLL"] == pytest.approx(-terms.sum(axis=1).mean(), rel=1e-5)


def test_the_brier_score_of_a_sigmoid_is_a_sum_over_classes(sigmoid_calibrated):
    metrics, probabilities, targets = sigmoid_calibrated
    expected = ((probabilities - targets) ** 2).sum(axis=1).mean()
    assert metrics["Brier"] == pytest.approx(expected, rel=1e-5)


def test_full_confidence_and_edges_fall_into_bins():
    diagram = bin_confidences(torch.tensor([0.0, 0.5, 0.5001, 1.0]), torch.tensor([1, 1, 0, 1]), 2)
    assert diagram.share.tolist() == [0.5, 0.5]
    assert diagram.accuracy.tolist() == [1.0, 0.5]
