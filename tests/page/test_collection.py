"""What the server keeps of an index, of any size."""

import shutil

import numpy as np
import pytest

from modeling_clip_vit.page import questions
from modeling_clip_vit.page.collection import Collection, Recent
from modeling_clip_vit.page.live_map import LiveMap
from modeling_clip_vit.page.options import PageOptions
from modeling_clip_vit.search.index import PictureIndex


@pytest.fixture(scope="module")
def held(picture_index) -> Collection:
    return Collection(picture_index, PageOptions(), threads=1)


@pytest.fixture(scope="module")
def left_on_disk(tmp_path_factory, picture_index) -> Collection:
    """The same index, as one whose vectors are too many to hold."""
    folder = tmp_path_factory.mktemp("large") / "pictures.index"
    ignored = shutil.ignore_patterns("search")
    shutil.copytree(picture_index.name, folder, ignore=ignored)
    return Collection(PictureIndex.open(folder), PageOptions(), threads=1, most_in_memory=10)


def by_key(points: list[dict]) -> dict[str, tuple]:
    return {point["key"]: (round(point["x"], 3), round(point["y"], 3)) for point in points}


@pytest.mark.slow
def test_an_index_that_is_not_held_is_described_as_one_that_is(held, left_on_disk):
    assert left_on_disk.contents.vectors is None
    names = ("count", "fields", "examples", "embedding_size")
    expected, found = held.describe(), left_on_disk.describe()
    assert {name: found[name] for name in names} == {name: expected[name] for name in names}


@pytest.mark.slow
def test_its_map_is_the_same(held, left_on_disk):
    expected, found = LiveMap(held).refresh().content, LiveMap(left_on_disk).refresh().content
    assert by_key(found["points"]) == by_key(expected["points"])


@pytest.mark.slow
def test_vectors_are_read_for_the_rows_that_were_asked_for(held, left_on_disk):
    places = np.array([7, 3, 40])
    vectors = left_on_disk.contents.vectors_at(places)
    rows = left_on_disk.contents.rows.take(places)["id"].to_pylist()
    for id, vector in zip(rows, vectors, strict=True):
        expected = held.find_row(id, is_vector_needed=True)["vector"]
        np.testing.assert_array_equal(vector, np.array(expected, np.float32))


@pytest.mark.slow
def test_it_is_browsed_and_filtered(left_on_disk):
    filters = [{"name": "folder", "under": "photos"}]
    found = questions.search(left_on_disk, {"filters": filters})
    assert found["total"] == 3


@pytest.mark.slow
def test_it_is_not_classified(left_on_disk):
    with pytest.raises(questions.RequestError, match="tooLargeToSort"):
        questions.classify(left_on_disk, ["a cat", "a dog"])


def test_what_was_set_longest_ago_is_forgotten_first():
    recent = Recent(2)
    recent["a"], recent["b"] = 1, 2
    recent["a"] = 3
    recent["c"] = 4
    assert dict(recent) == {"a": 3, "c": 4}


def test_labels_have_the_probabilities_of_a_softmax():
    rng = np.random.default_rng(0)
    pictures, labels = rng.normal(size=(50, 8)), rng.normal(size=(5, 8))
    powers = np.exp(3 * pictures @ labels.T)
    shares = powers / powers.sum(1, keepdims=True)
    best, found = questions.choose_labels(pictures, labels, 3)
    np.testing.assert_array_equal(best, shares.argmax(1))
    np.testing.assert_allclose(found, shares.max(1))
