"""Model cards: from facts and templates, in two languages, as huggingface_hub reads them."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from PIL import Image

from modeling_clip_vit.evaluation.metrics import Metric
from modeling_clip_vit.hub.base_model import BaseModel
from modeling_clip_vit.hub.card_facts import CardFacts
from modeling_clip_vit.hub.model_card import build_model_cards
from modeling_clip_vit.training.arguments import TrainArguments
from modeling_clip_vit.training.options import RunOptions
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY

DEFAULT_RUN = REPOSITORY / "docs" / "measurements" / "default_run.json"
ROOT_CARDS = ("model_card.md", "model_card.zh-CN.md")


@pytest.fixture
def facts() -> CardFacts:
    """What is known of the run that made the default model."""
    return CardFacts.from_json(json.loads(DEFAULT_RUN.read_text(encoding="utf-8")))


def read_card(facts: CardFacts) -> ModelCard:
    """The English card as huggingface_hub reads it."""
    return ModelCard(build_model_cards(facts)["README.md"])


def classifier(facts: CardFacts) -> CardFacts:
    """The same run as if it had trained a class head on three classes."""
    common = {"task": "classification", "split": "test", "dataset": "data/emoji"}
    values = {"top1_accuracy": 0.75, "majority": 0.25}
    metrics = [Metric(name=n, value=v, evaluation="test", **common) for n, v in values.items()]
    return replace(facts, metrics=metrics, classes=["cat", "dog", "<b>bird</b>"])


@pytest.mark.parametrize("name", ROOT_CARDS)
def test_the_card_in_the_repository_is_what_the_code_makes(facts, name):
    cards = build_model_cards(facts, names=ROOT_CARDS)
    assert cards[name] == (REPOSITORY / name).read_text(encoding="utf-8")


def test_facts_survive_json(facts):
    again = CardFacts.from_json(json.loads(json.dumps(facts.to_json(), allow_nan=False)))
    assert again == facts


def test_a_figure_that_is_no_number_survives_json(facts):
    facts.metrics[0] = replace(facts.metrics[0], value=float("nan"))
    content = json.loads(json.dumps(facts.to_json(), allow_nan=False))
    assert str(CardFacts.from_json(content).metrics[0].value) == "nan"


def test_the_metadata_is_what_was_measured(facts):
    data = read_card(facts).data
    assert (data.license, data.language) == ("apache-2.0", ["en", "zh"])
    assert data.pipeline_tag == "zero-shot-image-classification"
    measured = {
        (metric.split, metric.name, round(metric.value, 4))
        for metric in facts.metrics
        if metric.name in ("R@1", "R@10")
    }
    listed = {
        (result.dataset_split, result.metric_type, result.metric_value)
        for result in data.eval_results
    }
    assert listed == measured


def figures(text: str) -> list[str]:
    """The numbers in the tables of a card."""
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    return re.findall(r"\d+(?:\.\d+)?", "\n".join(rows))


@pytest.mark.parametrize("change", [lambda facts: facts, classifier])
def test_both_languages_have_the_same_figures_and_metadata(facts, change):
    english, chinese = build_model_cards(change(facts)).values()
    assert figures(english) == figures(chinese)
    assert figures(english)
    assert ModelCard(english).data.to_dict() == ModelCard(chinese).data.to_dict()


def test_the_card_of_a_classifier_names_its_classes_and_accuracy(facts):
    card = read_card(classifier(facts))
    assert card.data.pipeline_tag == "image-classification"
    assert "tells 3 classes apart: cat, dog," in card.text
    assert "| Top-1 accuracy | test | 75.0 % |" in card.text
    assert "would reach 25.0 % on test" in card.text


def test_what_came_with_the_data_is_no_markup(facts):
    assert "<b>" not in read_card(classifier(facts)).text


def test_a_fine_tuned_model_names_its_origin(facts):
    base = BaseModel("user/clip", "user/clip", "mit")
    card = read_card(replace(facts, bases=[base]))
    assert (card.data.base_model, card.data.base_model_relation) == (["user/clip"], "finetune")
    assert card.data.license == "mit"
    assert "Fine-tuned from `user/clip`." in card.text


@pytest.mark.parametrize(
    ("dataset", "listed"), [("data/emoji", None), ("user/photos", ["user/photos"]), ("/a/b", None)]
)
def test_only_a_dataset_of_the_hub_is_listed_as_one(facts, dataset, listed):
    assert read_card(replace(facts, dataset=dataset)).data.datasets == listed


def test_a_stream_of_datasets_of_the_hub_is_listed(facts):
    sources = ["user/a", "s3://bucket/*.tar", "shards/{0..9}.tar", "user/b"]
    facts = replace(facts, dataset="", recipe={**facts.recipe, "stream_sources": sources})
    assert read_card(facts).data.datasets == ["user/a", "user/b"]


def test_the_languages_of_unknown_data_are_not_made_up(facts):
    assert read_card(replace(facts, dataset="/nowhere")).data.language is None


def test_a_model_with_a_name_on_the_hub_has_a_widget(facts):
    recipe = {**facts.recipe, "hub_model_id": "user/emoji"}
    facts = replace(facts, recipe=recipe, pictures=["example.png"], example_texts=["a cat", "dogs"])
    [example] = read_card(facts).data.widget
    assert example["src"].endswith("/user/emoji/resolve/main/example.png")
    assert example["candidate_labels"] == "a cat, dogs"


def test_without_a_name_there_is_no_widget(facts):
    assert read_card(replace(facts, pictures=["example.png"])).data.to_dict().get("widget") is None


def test_energy_is_in_the_card_if_it_was_measured(facts):
    energy = {"energy_kwh": 0.01, "emissions_g": 3.5, "country": "DEU"}
    facts = replace(facts, environment=replace(facts.environment, energy=energy))
    card = read_card(facts)
    assert card.data.co2_eq_emissions["emissions"] == 3.5
    assert "about 3.5 g of CO₂ in DEU" in card.text


# Templates of one's own


def test_a_template_of_ones_own_makes_the_card(facts, tmp_path):
    template = tmp_path / "card.md"
    template.write_text("---\n{{ metadata }}\n---\n# {{ name | upper }}, {{ steps }} updates\n")
    cards = build_model_cards(facts, template)
    assert list(cards) == ["README.md"]
    assert "# EMOJI, 1050 updates" in cards["README.md"]


BAD = {
    "no file": (None, "there is no such file"),
    "an open block": ("{% if name %}", "line 1' is not valid|, line 1 is not valid"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_template_that_is_none_is_rejected_before_training(tmp_path, case):
    text, sentence = BAD[case]
    path = tmp_path / "card.md"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        TrainArguments(run=RunOptions(card_template=str(path)))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{{ nothing_of_the_kind }}", "'nothing_of_the_kind' is undefined"),
        ("{{ ''.__class__ }}", "unsafe|undefined"),
        ("---\nlicense: [\n---\n", "makes no valid card"),
    ],
)
def test_a_template_that_makes_no_card_is_one_sentence(facts, tmp_path, text, sentence):
    template = tmp_path / "card.md"
    template.write_text(text)
    with pytest.raises(UserError, match=sentence):
        build_model_cards(facts, template)


# From a run


@pytest.mark.slow
def test_a_run_leaves_cards_facts_and_an_example(tmp_path, color_dataset, linear_config):
    from tests.support.runs import train, write_recipe

    recipe = write_recipe(tmp_path, color_dataset, linear_config, max_steps=2, save_steps=0)
    train(recipe)
    folder = tmp_path / "out"
    content = json.loads((folder / "metrics.json").read_text())
    facts = CardFacts.from_json({**content["card"], "recipe": content["recipe"]})
    for name, text in build_model_cards(facts).items():
        assert (folder / name).read_text(encoding="utf-8") == text
    assert {"example.png", "retrieval.png", "training_curves.png"} <= set(facts.pictures)
    with Image.open(Path(folder) / "example.png") as image:
        assert image.size == (32, 32)
