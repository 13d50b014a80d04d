"""The number formats of a run: as asked for, as measured, or as a checkpoint keeps them."""

import json
import logging
import shutil

import pytest

from modeling_clip_vit.training import precision
from modeling_clip_vit.training.arguments import TrainArguments
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.options import OptimizerOptions, RunOptions
from modeling_clip_vit.training.precision import Precision, choose_precision
from modeling_clip_vit.training.trainer import Trainer, build_trainer
from modeling_clip_vit.utils.errors import UserError
from tests.support.runs import train, write_recipe

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def arguments(optim="muon", **fields) -> TrainArguments:
    return TrainArguments(optimizer=OptimizerOptions(optim=optim), run=RunOptions(**fields))


@pytest.mark.parametrize(
    ("gain", "autocast", "muon"),
    [(0.2, "no", "float32"), (2.5, "bf16", "float32"), (9, "bf16", "bfloat16")],
)
@pytest.mark.parametrize("device_type", ["cpu", "cuda"])
def test_formats_are_what_the_device_that_trains_multiplies_well(
    gain, autocast, muon, device_type, monkeypatch
):
    gains = {"cpu": 1.0, "cuda": 1.0, device_type: gain}
    monkeypatch.setattr(precision, "shared_gain", gains.get)
    expected = Precision(device_type, autocast, muon)
    assert choose_precision(arguments(), device_type) == expected


@pytest.mark.parametrize(("bf16", "autocast"), [(True, "bf16"), (False, "no")])
@pytest.mark.parametrize("kept", [None, Precision("cpu", "no"), Precision("cpu", "bf16")])
def test_an_option_decides_whatever_was_kept(bf16, autocast, kept):
    assert choose_precision(arguments(bf16=bf16), "cpu", kept).autocast == autocast


@pytest.mark.parametrize("kept", [Precision("cpu", "no", "bfloat16"), Precision("cpu", "bf16")])
def test_what_was_kept_is_not_measured_again(kept, monkeypatch):
    """Each has one format that is not what timing would choose."""
    gains = {"no": 9.0, "bf16": 0.2}
    monkeypatch.setattr(precision, "shared_gain", lambda device_type: gains[kept.autocast])
    assert choose_precision(arguments(), "cpu", kept) == kept


UNSUITABLE = {
    "another type of device": (Precision("cuda", "bf16", "bfloat16"), 0.2),
    "a device without bfloat16": (Precision("cpu", "bf16", "float32"), 0.0),
}


def test_without_bfloat16_nothing_is_timed(monkeypatch):
    monkeypatch.setattr(precision, "shared_gain", lambda device_type: pytest.fail("it was timed"))
    assert choose_precision(arguments(bf16=False), "cpu") == Precision("cpu", "no", "float32")


@pytest.mark.parametrize("name", UNSUITABLE)
def test_what_does_not_suit_the_device_is_measured_again(name, monkeypatch, caplog):
    kept, gain = UNSUITABLE[name]
    monkeypatch.setattr(precision, "shared_gain", lambda device_type: gain)
    with caplog.at_level(logging.WARNING):
        assert choose_precision(arguments(), "cpu", kept) == Precision("cpu", "no", "float32")
    assert "does not suit this cpu: it is measured again" in caplog.text


def test_nothing_is_said_of_a_kept_format_that_the_options_replace(caplog):
    kept = Precision("cuda", "bf16", "bfloat16")
    with caplog.at_level(logging.WARNING):
        choose_precision(arguments(optim="adamw", bf16=False), "cpu", kept)
    assert not caplog.text


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"fp16": True}, "needs a GPU"), ({"fp16": True, "bf16": True}, "both true")],
)
def test_what_cannot_be_is_rejected(fields, message):
    with pytest.raises(UserError, match=message):
        choose_precision(arguments(**fields), "cpu")


@pytest.fixture(scope="module")
def run(tmp_path_factory, color_dataset, linear_config):
    """A recipe that was trained in bfloat16."""
    fields = {"max_steps": 1, "save_steps": 1, "eval_steps": 0, "evaluations": [], "bf16": "auto"}
    folder = tmp_path_factory.mktemp("bfloat16")
    recipe = write_recipe(folder, color_dataset, linear_config, **fields)
    train(recipe, "--bf16", "true")
    return recipe


def resume(run, folder, kept: dict | None = None, *options: str) -> Trainer:
    """The run again, from its checkpoint with another precision in it."""
    path = shutil.copytree(run.parent / "out" / "checkpoints" / "step-00000001", folder / "copy")
    progress = json.loads((path / "progress.json").read_text())
    progress["precision"] |= kept or {}
    (path / "progress.json").write_text(json.dumps(progress))
    options = ("--resume_from_checkpoint", str(path), "--max_steps", "2", *options)
    return build_trainer(parse_arguments(["--config", str(run), *options]))


def test_a_run_goes_on_in_the_precision_that_it_was_saved_with(run, tmp_path):
    """Even if that was asked for then, and is left open now."""
    assert resume(run, tmp_path).precision.autocast == "bf16"


# One of the two is not what timing this machine would choose.
@pytest.mark.parametrize("autocast", ["no", "bf16"])
def test_the_model_resumes_in_the_autocast_of_the_checkpoint(autocast, run, tmp_path):
    trainer = resume(run, tmp_path, {"autocast": autocast})
    assert trainer.accelerator.mixed_precision == autocast


@pytest.mark.parametrize("muon", ["float32", "bfloat16"])
def test_muon_resumes_in_the_dtype_of_the_checkpoint(muon, run, tmp_path):
    optimizer = resume(run, tmp_path, {"muon": muon}).scheduler.optimizer
    assert str(optimizer.product_dtype) == f"torch.{muon}"


def test_an_option_of_the_resumed_run_decides(run, tmp_path):
    trainer = resume(run, tmp_path, {"autocast": "bf16"}, "--bf16", "false")
    assert trainer.accelerator.mixed_precision == "no"
