"""`push_to_hub` of the models, from Python."""

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoProcessor
from transformers.utils import hub as transformers_hub

from modeling_clip_vit import (
    ClipVitConfig,
    ClipVitForImageClassification,
    ClipVitModel,
    ClipVitTextModelWithProjection,
    ClipVitVisionConfig,
    ClipVitVisionModelWithProjection,
)
from tests.support.models import VISION, small_config

REPO = "user/squares"
CARD = "---\nlicense: mit\n---\n# Squares\n"
PROCESSOR = {"processor_config.json", "tokenizer.json", "tokenizer_config.json"}
CODE = {"modeling_clip_vit.py", "configuration_clip_vit.py", "companions.py"}


@pytest.fixture(autouse=True)
def client(monkeypatch):
    """Transformers makes its client once, for the Hub of then."""
    monkeypatch.setattr(transformers_hub, "_hf_api", None)


@pytest.fixture
def model(folder) -> ClipVitModel:
    (folder / "README.md").write_text(CARD)
    return ClipVitModel.from_pretrained(folder)


def test_a_loaded_model_takes_processor_code_and_card_along(hub, model):
    model.push_to_hub(REPO)
    names = set(hub.store.names("model", REPO))
    assert names >= PROCESSOR | CODE | {"model.safetensors", "config.json"}
    assert hub.store.read("model", REPO, "README.md").decode() == CARD


def test_the_card_of_other_weights_stays(hub, model):
    with torch.no_grad():
        model.text_projection.weight.mul_(2)
    model.push_to_hub(REPO)
    assert set(hub.store.names("model", REPO)) >= PROCESSOR
    assert ModelCard(hub.store.read("model", REPO, "README.md").decode()).data.license is None


@pytest.mark.parametrize(
    "tower", [ClipVitVisionModelWithProjection, ClipVitTextModelWithProjection]
)
def test_a_tower_takes_the_processor_along_and_not_the_card(hub, model, folder, tower):
    tower.from_pretrained(folder).push_to_hub(REPO)
    assert set(hub.store.names("model", REPO)) >= PROCESSOR | CODE
    assert "# Squares" not in hub.store.read("model", REPO, "README.md").decode()


def test_a_model_that_was_built_here_is_given_its_processor(hub, processor):
    ClipVitModel(small_config()).push_to_hub(REPO, processor=processor)
    assert set(hub.store.names("model", REPO)) >= PROCESSOR | CODE


def test_a_classifier_is_given_its_image_processor(hub, processor):
    model = ClipVitForImageClassification(ClipVitVisionConfig(**VISION))
    model.push_to_hub(REPO, processor=processor.image_processor, private=True)
    assert "preprocessor_config.json" in hub.store.names("model", REPO)
    assert hub.store.repositories["model", REPO].private


def test_a_processor_and_a_configuration_have_their_own(hub, processor, folder):
    AutoProcessor.from_pretrained(folder).push_to_hub(REPO)
    ClipVitConfig().push_to_hub(REPO)
    assert set(hub.store.names("model", REPO)) >= PROCESSOR | {"config.json"}


def test_saving_to_the_hub_takes_them_along_as_well(hub, model, tmp_path):
    model.save_pretrained(tmp_path / "saved", push_to_hub=True, repo_id=REPO)
    assert set(hub.store.names("model", REPO)) >= PROCESSOR | CODE
