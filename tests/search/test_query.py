"""The grammar of queries, and what is rejected."""

import numpy as np
import pytest

from modeling_clip_vit.search.query import Part, embed_query, parse_query
from modeling_clip_vit.utils.errors import UserError
from tests.support.pictures import draw_picture


@pytest.mark.parametrize(
    ("query", "parts"),
    [
        ("horse + stripes", [("horse", 1), ("stripes", 1)]),
        ("apple - fruit", [("apple", 1), ("fruit", -1)]),
        ("2:dog", [("dog", 2)]),
        (
            "2:golden retriever + .5: snow - 1.5:sky",
            [("golden retriever", 2), ("snow", 0.5), ("sky", -1.5)],
        ),
        ("- fruit + apple", [("fruit", -1), ("apple", 1)]),
        ("a well-known T-shirt", [("a well-known T-shirt", 1)]),
        ("the 12:30 train", [("the 12:30 train", 1)]),
        ("12:30", [("12:30", 1)]),
        ("C++ code", [("C++ code", 1)]),
        ("狗 + 雪", [("狗", 1), ("雪", 1)]),
        ("'; drop table pictures", [("'; drop table pictures", 1)]),
        ("it costs 3.jpgs", [("it costs 3.jpgs", 1)]),
    ],
)
def test_a_query_is_split_at_signs_between_spaces(query, parts):
    assert parse_query(query) == [Part(content, weight) for content, weight in parts]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "the query is empty"),
        (" \n\t", "the query is empty"),
        (None, "the query is empty"),
        ("x" * 10_000, r"the query has 10,000 characters: at most 2,000 are allowed"),
        ("dog +", r"lacks a text beside its '\+'"),
        ("dog - - cat", "lacks a text beside its '-'"),
        ("2:", "lacks a text"),
        ("0:dog", "has a part of weight 0"),
        ("- dog - cat", "only says what not to find"),
        ("dog + nowhere.JPG", "there is no picture 'nowhere.JPG'"),
    ],
)
def test_a_query_that_cannot_be_searched_with_is_rejected(query, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_query(query)


def test_a_picture_may_be_subtracted_and_added(tmp_path, monkeypatch):
    draw_picture("red", 0).save(tmp_path / "red.png")
    monkeypatch.chdir(tmp_path)
    assert parse_query("snow - 2:red.png", ["red.png"]) == [
        Part("snow"),
        Part("red.png", -2.0, is_picture=True),
        Part("red.png", 1.0, is_picture=True),
    ]


def test_a_missing_picture_to_search_with_is_named():
    with pytest.raises(UserError, match=r"no picture 'nowhere\.png' to search with"):
        parse_query(None, ["nowhere.png"])


def test_an_embedded_query_is_the_weighted_sum_of_its_parts(tmp_path):
    draw_picture("red", 0).save(tmp_path / "red.png")
    embeds = {"a": np.array([1, 0, 0]), "b": np.array([0, 1, 0]), "picture": np.array([0, 0, 1])}

    def encode_texts(texts):
        return np.stack([embeds[text] for text in texts]).astype(np.float32)

    def encode_pictures(paths):
        return np.stack([embeds["picture"] for _ in paths]).astype(np.float32)

    parts = parse_query(f"2:a - b + {tmp_path}/red.png")
    query = embed_query(parts, encode_texts, encode_pictures)
    np.testing.assert_allclose(query.vector, np.array([2, -1, 1]) / np.sqrt(6), rtol=1e-6)
    assert query.text_weight == pytest.approx(1 / np.sqrt(6))
    assert query.picture_norm == pytest.approx(1 / np.sqrt(6))
    assert query.text_norm == pytest.approx(np.sqrt(5 / 6))


def test_parts_that_cancel_each_other_out_are_rejected():
    def encode(texts):
        return np.ones((len(texts), 4), np.float32) / 2

    with pytest.raises(UserError, match="cancel each other out"):
        embed_query(parse_query("dog - dog"), encode, encode)
