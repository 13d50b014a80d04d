"""Runs that upload their models while they train."""

import json

import pytest
from huggingface_hub import ModelCard

from modeling_clip_vit.cli import main
from modeling_clip_vit.evaluation.metrics import Metric
from modeling_clip_vit.training.arguments import TrainArguments
from modeling_clip_vit.training.options import RunOptions
from modeling_clip_vit.training.revisions import Revisions
from modeling_clip_vit.utils.errors import UserError
from tests.support.runs import write_recipe

REPO = "user/colors"


@pytest.fixture
def train(tmp_path, color_dataset, linear_config, fresh_accelerate):
    """Trains for six updates, evaluates after every second one, and uploads; the exit code."""
    options = {"max_steps": 6, "eval_steps": 2, "save_steps": 0, "push_to_hub": True}
    options |= {"hub_model_id": REPO, "hub_strategy": "every_eval", "report_to": "none"}

    def run(**others) -> int:
        recipe = write_recipe(tmp_path, color_dataset, linear_config, **{**options, **others})
        if "model_name_or_path" in others:
            content = json.loads(recipe.read_text())
            del content["model_config"]
            recipe.write_text(json.dumps(content))
        return main(["train", "--config", str(recipe)])

    return run


@pytest.mark.slow
def test_every_evaluation_is_a_revision_and_the_end_is_main(hub, train, tmp_path, capsys):
    assert train() == 0
    repository = hub.store.repositories["model", REPO]
    assert list(repository.tags) == ["step-2", "step-4"]
    assert "pushed to" in capsys.readouterr().out
    for tag in repository.tags:
        card = ModelCard(hub.store.read("model", REPO, "README.md", tag).decode())
        assert f"{tag[5:]} updates in" in card.text
        assert card.data.eval_results
    weights = {
        repository.find(revision).files["model.safetensors"].sha256
        for revision in (*repository.tags, "main")
    }
    assert len(weights) == 3
    local = (tmp_path / "out" / "model.safetensors").read_bytes()
    assert hub.store.read("model", REPO, "model.safetensors") == local


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        ({"status": 503}, "has a fault (503)"),
        ({"status": 401, "message": "Invalid credentials in Authorization header"}, "the token"),
    ],
)
def test_a_run_without_the_hub_ends_well_and_says_what_is_left(
    hub, train, tmp_path, caplog, faults, sentence
):
    hub.fail("POST", "/repos/create", times=-1, **faults)
    assert train(hub_patience=1) == 0
    assert (tmp_path / "out" / "model.safetensors").is_file()
    assert (tmp_path / "out" / "uploads" / "step-2" / "model.safetensors").is_file()
    [rest] = [line for line in caplog.messages if "not uploaded, and kept in" in line]
    assert sentence in rest
    [end] = [line for line in caplog.messages if line.startswith("the upload (the model")]
    assert f"clip-vit push {tmp_path / 'out'} {REPO}" in end


@pytest.mark.slow
def test_an_adapter_is_merged_in_what_is_uploaded_on_the_way(hub, train, tmp_path):
    assert train(push_to_hub=False) == 0
    base = tmp_path / "base"
    (tmp_path / "out").rename(base)
    assert train(model_name_or_path=str(base), peft_type="LORA") == 0
    tags = list(hub.store.repositories["model", REPO].tags)
    assert tags == ["step-2", "step-4"]
    for tag in tags:
        weights = hub.store.read("model", REPO, "model.safetensors", tag)
        assert b"lora" not in weights[:100_000]


def is_best_of(values: list[float]) -> list[bool]:
    """Whether each evaluation in a row is the best so far, where R@1 has these values."""
    revisions = Revisions.__new__(Revisions)
    revisions.best = None
    common = {"task": "retrieval", "split": "validation", "column": "caption"}
    return [
        revisions.is_best(
            [
                Metric(name="R@1", value=value, **common),
                Metric(name="median_rank", value=1000 * value, **common),
            ]
        )
        for value in values
    ]


def test_the_best_is_told_by_the_headline_metric():
    assert is_best_of([0.2, 0.1, 0.3, 0.3]) == [True, False, True, False]


def test_revisions_need_evaluations_on_the_way():
    options = RunOptions(push_to_hub=True, hub_model_id=REPO, hub_strategy="best")
    with pytest.raises(UserError, match="hub_strategy='best' is not allowed with eval_steps=0"):
        TrainArguments(run=options)
