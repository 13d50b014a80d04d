"""Phrases around class names."""

import pytest

from modeling_clip_vit.data.errors import DataError
from modeling_clip_vit.data.templates import (
    TEMPLATES,
    clean_class_name,
    clean_class_names,
    load_templates,
)


@pytest.mark.parametrize("name", [*TEMPLATES, "open_clip_imagenet", "open_clip_simple"])
def test_every_template_has_one_place_for_the_name(name):
    assert all(
        template.count("{") == template.count("{}") == 1 for template in load_templates(name)
    )


@pytest.mark.parametrize("name", [*TEMPLATES, "open_clip_imagenet", "open_clip_simple"])
def test_the_templates_of_a_set_are_distinct(name):
    templates = load_templates(name)
    assert len(set(templates)) == len(templates)


def test_open_clips_phrases_are_its_own():
    from open_clip import IMAGENET_CLASSNAMES, OPENAI_IMAGENET_TEMPLATES

    name = IMAGENET_CLASSNAMES[0]
    ours = [phrase.replace("{}", name) for phrase in load_templates("open_clip_imagenet")]
    assert ours == [template(name) for template in OPENAI_IMAGENET_TEMPLATES]


def test_a_file_gives_a_phrase_a_line(tmp_path):
    path = tmp_path / "phrases.txt"
    path.write_text("an old map of {}\n\n一张{}的地图\n", encoding="utf-8")
    assert load_templates(str(path)) == ["an old map of {}", "一张{}的地图"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("a map\n", "line 1"), ("a {} of {}\n", "exactly one"), ("\n", "empty")],
)
def test_a_phrase_without_its_place_is_refused(tmp_path, text, complaint):
    path = tmp_path / "phrases.txt"
    path.write_text(text)
    with pytest.raises(DataError, match=complaint):
        load_templates(str(path))


def test_an_unknown_set_is_refused_with_those_that_there_are():
    with pytest.raises(DataError, match="open_clip_imagenet"):
        load_templates("english")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("automobile", "automobile"),
        ("sports_car", "sports car"),
        ("n04285008_sports_car", "sports car"),
        ("T-shirt", "T-shirt"),
        ("7", "7"),
        ("n95_mask", "n95 mask"),
        ("737_200", "737 200"),
        ("12.5 mm", "12.5 mm"),
    ],
)
def test_class_names_become_words(name, text):
    assert clean_class_name(name) == text


@pytest.mark.parametrize(
    ("names", "texts"),
    [
        (["001.sports_car", "012.tabby"], ["sports car", "tabby"]),
        (["01_cat", "02_dog"], ["cat", "dog"]),
        (["0 cat", "1 dog", "2 fox"], ["cat", "dog", "fox"]),
        # What is no index, or tells classes apart, stays.
        (["100 rupees", "200 rupees"], ["100 rupees", "200 rupees"]),
        (["911 Carrera", "718 Cayman"], ["911 Carrera", "718 Cayman"]),
        (["12.5 mm", "10.0 mm"], ["12.5 mm", "10.0 mm"]),
        (["01_cat", "dog"], ["01 cat", "dog"]),
        (["01_cat", "02_cat"], ["01 cat", "02 cat"]),
        (["007", "-1"], ["007", "-1"]),
    ],
)
def test_a_number_goes_where_it_only_numbers_the_classes(names, texts):
    assert clean_class_names(names) == texts
