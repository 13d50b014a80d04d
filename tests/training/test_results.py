"""What a finished run leaves: the model first, whatever happens then; a bug looks like one."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from modeling_clip_vit.cli import main
from modeling_clip_vit.training import results
from modeling_clip_vit.training import trainer as training
from modeling_clip_vit.training.tasks import ContrastiveTask
from modeling_clip_vit.training.trainer import Trainer
from tests.support.runs import train, write_recipe

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

FEW = {"max_steps": 2, "save_steps": 1, "eval_steps": 0, "view_loss_weight": 0}


@pytest.fixture(scope="module")
def expected(tmp_path_factory, color_dataset, linear_config) -> dict[str, torch.Tensor]:
    """The weights of the run that is disturbed below."""
    folder = tmp_path_factory.mktemp("expected")
    train(write_recipe(folder, color_dataset, linear_config, **FEW))
    return load_file(folder / "out" / "model.safetensors")


def fail(*args, **kwargs):
    raise KeyError("a bug")


#: What breaks after training -> how, and what a warning says of it.
BROKEN = {
    "card": (ContrastiveTask, "build_cards", "writing the model card"),
    "searches": (results, "save_retrieval_grid", "drawing retrieval.png"),
    "curves": (results, "save_curves", "drawing training_curves.png"),
    "evaluation": (training, "evaluate_run", "the evaluation"),
    "metrics": (results, "code_version", "writing metrics.json"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_what_breaks_after_training_costs_a_warning_and_not_the_model(
    what, expected, tmp_path, color_dataset, linear_config, monkeypatch, caplog
):
    place, name, told = BROKEN[what]
    monkeypatch.setattr(place, name, fail)
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **FEW)
    train_anyway(recipe)
    out = tmp_path / "out"
    weights = load_file(out / "model.safetensors")
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    AutoModel.from_pretrained(out)
    assert f"{told} (the model in {out} is whole) failed: 'a bug'" in caplog.text
    assert "Traceback" in caplog.text
    assert (out / "checkpoints" / "step-00000002").is_dir()
    assert (out / "README.md").is_file() == (what != "card")
    assert (out / "metrics.json").is_file() == (what != "metrics")


def train_anyway(recipe):
    """Train here, whatever comes afterwards."""
    assert main(["train", "--config", str(recipe), "--report_to", "none"]) == 0


def test_a_tracker_that_fails_at_the_end_costs_a_warning(
    expected, tmp_path, color_dataset, linear_config, monkeypatch, caplog
):
    from accelerate import Accelerator

    monkeypatch.setattr(Accelerator, "end_training", fail)
    train_anyway(write_recipe(tmp_path, color_dataset, linear_config, **FEW))
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(weights[key], value) for key, value in expected.items())
    assert "closing the trackers failed" in caplog.text


def test_a_broken_evaluation_on_the_way_does_not_stop_training(
    tmp_path, color_dataset, linear_config, monkeypatch, caplog
):
    monkeypatch.setattr(training, "evaluate_run", fail)
    train_anyway(write_recipe(tmp_path, color_dataset, linear_config, **{**FEW, "eval_steps": 1}))
    assert "the evaluation failed" in caplog.text


def test_a_bug_shows_its_traceback_and_a_mistake_a_sentence(
    tmp_path, color_dataset, linear_config, monkeypatch, capsys
):
    recipe = str(write_recipe(tmp_path, color_dataset, linear_config, **FEW))
    command = ["train", "--config", recipe, "--report_to", "none"]
    assert main([*command, "--train_split", "dev"]) == 1
    assert "error: " in capsys.readouterr().err
    with pytest.raises(ValueError, match="no split 'dev'"):
        main([*command, "--train_split", "dev", "--debug"])
    monkeypatch.setattr(Trainer, "backward", lambda self, batch: [][batch])
    with pytest.raises(TypeError):
        main(command)


@pytest.mark.parametrize(
    "caption",
    ["a $$ shop", r"\alpha $x^2", "a | b", "<b>bold</b>", "{braces} %s", "一 $ 家店 $$"],
)
def test_any_caption_can_be_drawn_and_described(caption, tmp_path, color_dataset, linear_config):
    from datasets import load_dataset

    splits = load_dataset(str(color_dataset))
    for name, rows in splits.items():
        texts = [caption if n % 3 == 0 else text for n, text in enumerate(rows["caption_en"])]
        rows = rows.remove_columns("caption_en").add_column("caption/en|", texts)
        rows.to_parquet(tmp_path / f"{name}-0.parquet")
    recipe = write_recipe(
        tmp_path,
        tmp_path,
        linear_config,
        **{**FEW, "caption_columns": ["caption/en|"], "tags_columns": {}},
    )
    train(recipe)
    out = tmp_path / "out"
    assert (out / "retrieval.png").is_file()
    metrics = json.loads((out / "metrics.json").read_text())["metrics"]
    assert "validation/caption/en|/text_to_image/R@1" in metrics
    assert r"| validation | caption/en\| | text to image |" in (out / "README.md").read_text()


def test_the_split_is_called_by_its_own_name(tmp_path, color_dataset, linear_config):
    recipe = write_recipe(
        tmp_path,
        color_dataset,
        linear_config,
        **{**FEW, "evaluations": [{"split": "train"}], "loss": "siglip"},
    )
    train(recipe)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "split: train" in card
    assert "validation" not in card.split("The recipe:")[0]


def test_a_tracker_that_is_not_installed_is_refused_first(
    tmp_path, color_dataset, linear_config, capsys
):
    recipe = str(write_recipe(tmp_path, color_dataset, linear_config, **FEW))
    for name, told in (("wandb", "is not installed: pip install wandb"), ("nobody", "one of aim")):
        assert main(["train", "--config", recipe, "--report_to", name]) == 1
        assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_what_the_run_wrote_would_go_up(tmp_path, color_dataset, linear_config, capsys):
    out = tmp_path / "out"
    (out / "private").mkdir(parents=True)
    (out / "secret.env").write_text("HF_TOKEN=hf_x")
    (out / "private" / "notes.txt").write_text("x")
    recipe = write_recipe(
        tmp_path,
        color_dataset,
        linear_config,
        **{**FEW, "push_to_hub": True, "hub_model_id": "me/squares", "hub_dry_run": True},
    )
    train(recipe)
    output = capsys.readouterr().out.split("would push to me/squares:")[1]
    listed = output.split("not uploaded:")[0].split()
    assert {"model.safetensors", "README.md", "modeling_clip_vit.py", "metrics.json"} <= {*listed}
    assert not [name for name in listed if "secret" in name or "notes" in name or "step-" in name]
