"""Places of pictures on the map."""

import numpy as np
import pytest

from modeling_clip_vit.page.placement import place_on_map, spread_evenly


def random_vectors(count: int) -> np.ndarray:
    vectors = np.random.default_rng(0).normal(size=(count, 16)).astype(np.float32)
    vectors[:, 0] *= 3
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_same_pictures_in_another_order_have_the_same_places():
    vectors, order = random_vectors(200), np.random.default_rng(1).permutation(200)
    expected = place_on_map(vectors)[order]
    np.testing.assert_allclose(place_on_map(vectors[order]), expected, atol=1e-4)


def test_two_groups_are_apart_on_the_map():
    groups = np.zeros((100, 16), np.float32)
    groups[:50, 3], groups[50:, 7] = 1, 1
    places = place_on_map(groups + 0.05 * random_vectors(100))
    first, second = places[:50, 0], places[50:, 0]
    assert max(first) < min(second) or max(second) < min(first)


@pytest.mark.parametrize("count", [1, 2, 3, 40])
def test_every_picture_is_within_the_map(count):
    places = place_on_map(random_vectors(count))
    assert places.shape == (count, 2)
    assert np.isfinite(places).all()
    assert (places >= 0).all()
    assert (places <= 1).all()


def test_equal_pictures_have_places_too():
    assert np.isfinite(place_on_map(np.ones((5, 4), np.float32))).all()


@pytest.mark.parametrize(("count", "wanted"), [(10, 4), (3, 10), (1, 1), (5000, 1600)])
def test_chosen_rows_are_distinct_and_reach_from_end_to_end(count, wanted):
    rows = spread_evenly(count, wanted)
    assert len(set(rows)) == len(rows) == min(count, wanted)
    assert rows[0] == 0
    assert rows[-1] == (count - 1 if wanted > 1 else 0)
