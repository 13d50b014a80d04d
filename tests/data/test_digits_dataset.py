"""The embedded digits are those of scikit-learn, each once."""

import unicodedata

import numpy as np
import pytest
import yaml
from datasets import load_dataset
from sklearn.datasets import load_digits

from tests.support import REPOSITORY

FOLDER = REPOSITORY / "data" / "digits"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return load_dataset(str(FOLDER), cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_the_digits_are_scikit_learns(split, digits):
    """Every fifth of each class is held out."""
    source = load_digits()
    is_held_out = np.zeros(len(source.target), bool)
    for label in range(10):
        is_held_out[np.flatnonzero(source.target == label)[::5]] = True
    chosen = is_held_out if split == "validation" else ~is_held_out
    assert list(digits[split]["label"]) == source.target[chosen].tolist()
    images = np.stack([np.asarray(image) for image in digits[split]["image"]])
    # Grey values of 255 levels tell all the 17 counts apart.
    assert np.array_equal(np.rint(images / 255 * 16), source.images[chosen])


def test_a_class_is_called_by_the_word_of_its_digit(digits):
    assert digits["train"].features["label"].names[7] == "seven"


@pytest.mark.parametrize("card", ["README.md", "README.zh-CN.md"])
def test_the_cards_give_the_numbers_of_rows(card, digits):
    text = (FOLDER / card).read_text(encoding="utf-8")
    for split, rows in digits.items():
        assert f"| `{split}` | {len(rows):,} |" in text
    counts = np.bincount(digits["validation"]["label"])
    assert f"{counts.min()} " in text
    assert f"{counts.max()} " in text


@pytest.mark.parametrize("card", ["README.md", "README.zh-CN.md"])
def test_the_cards_cite_the_source(card):
    assert "10.24432/C50P49" in (FOLDER / card).read_text(encoding="utf-8")


def test_class_names_of_the_recipe_are_in_the_order_of_the_labels():
    recipe = yaml.safe_load((REPOSITORY / "configuration/train/digits.yaml").read_text())
    for value, name in enumerate(recipe["label_names"]["digits_zh"]):
        assert unicodedata.numeric(name) == value
