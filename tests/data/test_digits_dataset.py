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


def test_the_digits_are_scikit_learns(digits):
    given = load_digits()
    is_held_out = np.zeros(len(given.target), bool)
    for label in range(10):
        is_held_out[np.flatnonzero(given.target == label)[::5]] = True
    for split, chosen in (("validation", is_held_out), ("train", ~is_held_out)):
        rows = digits[split]
        assert list(rows["label"]) == given.target[chosen].tolist()
        images = np.stack([np.asarray(row["image"]) for row in rows])
        # Grey values of 255 levels tell all the 17 counts apart.
        assert np.array_equal(np.rint(images / 255 * 16), given.images[chosen])
    assert digits["train"].features["label"].names[7] == "seven"


def test_the_cards_say_what_is_there(digits):
    counts = np.bincount(digits["validation"]["label"])
    for card in ("README.md", "README.zh-CN.md"):
        text = (FOLDER / card).read_text(encoding="utf-8")
        assert "| `train` | 1,433 |" in text
        assert "| `validation` | 364 |" in text
        assert f"{counts.min()} " in text
        assert f"{counts.max()} " in text
        assert "10.24432/C50P49" in text
    assert (len(digits["train"]), len(digits["validation"])) == (1433, 364)


def test_class_names_of_the_recipe_are_in_the_order_of_the_labels():
    recipe = yaml.safe_load((REPOSITORY / "configuration/train/digits.yaml").read_text())
    for value, name in enumerate(recipe["label_names"]["digits_zh"]):
        assert unicodedata.numeric(name) == value
