"""Which tokens are one word."""

import pytest

from modeling_clip_vit.explain.words import find_words, split_words


def spans(text: str, pieces: list[str]) -> list[tuple[int, int]]:
    """Offsets of tokens that follow each other in a text, with what is between them."""
    offsets, place = [], 0
    for piece in pieces:
        start = text.index(piece, place)
        place = start + len(piece)
        offsets.append((start, place))
    return offsets


@pytest.mark.parametrize(
    ("text", "pieces", "words"),
    [
        ("a pizza", ["a", " piz", "za"], ["a", "pizza"]),
        ("don't go", ["don", "'", "t", " go"], ["don't", "go"]),
        ("cats, dogs", ["cat", "s", ",", " dogs"], ["cats", ",", "dogs"]),
        ("红色方块", ["红色", "方", "块"], ["红色", "方", "块"]),
        ("red方块", ["re", "d", "方块"], ["red", "方块"]),
        ("nai\u0308ve e", ["nai", "\u0308ve", " e"], ["nai\u0308ve", "e"]),
        ("แมวดำ", ["แมว", "ดำ"], ["แมว", "ดำ"]),
    ],
    ids=["sub-words", "apostrophe", "comma", "Chinese", "mixed", "combining mark", "Thai"],
)
def test_letters_that_meet_are_one_word(text, pieces, words):
    found = find_words(text, spans(text, pieces))
    assert [text[word.start : word.end] for word in found] == words


def test_tokens_that_share_a_character_are_one_word():
    words = find_words("a 😀", [(0, 1), (1, 3), (2, 3), (2, 3)])
    assert [(word.start, word.end, word.tokens) for word in words] == [
        (0, 1, [0]),
        (2, 3, [1, 2, 3]),
    ]


def test_tokens_that_stand_for_nothing_are_no_word():
    words = find_words(" a", [(0, 0), (0, 1), (1, 2), (0, 0)])
    assert [(word.start, word.end, word.tokens) for word in words] == [(1, 2, [2])]


def test_a_text_without_a_tokenizer_is_split_by_its_characters():
    text = "a red方块!"
    assert [text[w.start : w.end] for w in split_words(text)] == ["a", "red", "方", "块", "!"]
