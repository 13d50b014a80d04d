"""Pictures that show none of the classes."""

import csv
import json
import math

import numpy as np
import pytest

from modeling_clip_vit.cli import main
from modeling_clip_vit.search.rejection import class_margins
from tests.support.indexes import write_pictures


def normalize(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def draw(count: int, seed: int) -> np.ndarray:
    return normalize(np.random.default_rng(seed).standard_normal((count, 32)))


def test_a_margin_is_in_deviations_of_the_other_texts():
    images, classes, background = draw(5, 0), draw(3, 1), draw(200, 2)
    margins = class_margins(images, classes, background)
    nearness = (background @ classes.T).max(axis=1)
    others = background[nearness < np.sort(nearness)[-5]]
    for image, margin in zip(images, margins, strict=True):
        cosines = others @ image
        best = (classes @ image).max()
        expected = (best - cosines.mean()) / cosines.std(ddof=1) - math.sqrt(2 * math.log(3))
        assert margin == pytest.approx(expected, abs=1e-9)


def test_pictures_of_the_classes_have_margins_and_others_have_none():
    classes, background = draw(4, 1), draw(400, 2)
    shown = normalize(np.tile(classes, (5, 1)) + 0.5 * draw(20, 3))
    assert class_margins(shown, classes, background).min() > 1
    assert np.median(class_margins(draw(50, 4), classes, background)) < 0.6


def test_a_picture_does_not_depend_on_the_others():
    images, classes, background = draw(6, 0), draw(3, 1), draw(200, 2)
    together = class_margins(images, classes, background)
    alone = [class_margins(image[None], classes, background)[0] for image in images]
    np.testing.assert_allclose(together, alone)


def test_the_tables_say_which_pictures_fit_none(checkpoint, tmp_path, capsys):
    write_pictures(tmp_path / "p", 8)
    arguments = ["classify", str(checkpoint), str(tmp_path / "p"), "--classes", "red,blue"]
    for name in ("table.json", "table.csv"):
        save = ["--none_of_these", "true", "--save", str(tmp_path / name)]
        assert main([*arguments, *save]) == 0
    shown = capsys.readouterr().out
    pictures = json.loads((tmp_path / "table.json").read_text())["pictures"]
    with (tmp_path / "table.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert [line["fits"] for line in lines] == [str(it["fits"]) for it in pictures]
    assert shown.count("none of these") == 2 * sum(not it["fits"] for it in pictures)


def test_without_the_option_nothing_is_said_of_it(checkpoint, tmp_path):
    write_pictures(tmp_path / "p", 2)
    save = ["--save", str(tmp_path / "table.csv")]
    arguments = [str(checkpoint), str(tmp_path / "p"), "--classes", "red,blue", *save]
    assert main(["classify", *arguments]) == 0
    assert (tmp_path / "table.csv").read_text().splitlines()[0] == "picture,rank,class,probability"


def test_it_needs_names_alone(checkpoint, tmp_path, capsys):
    for color in ("red", "blue"):
        write_pictures(tmp_path / "p" / color, 2)
    arguments = [str(checkpoint), str(tmp_path / "p"), "--examples", str(tmp_path / "p")]
    assert main(["classify", *arguments, "--none_of_these", "true"]) == 1
    assert "is told by the names alone" in capsys.readouterr().err
