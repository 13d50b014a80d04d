"""What a run says and refuses before its first step."""

import fsspec
import pytest

from modeling_clip_vit.cli import main
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.trainer import build_trainer
from tests.support.runs import write_recipe

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

FEW = {"max_steps": 2, "save_steps": 0, "eval_steps": 0, "evaluations": [], "report_to": "none"}
REPLACED = "which a new run would replace"


def start(folder, capsys, *arguments: str) -> str:
    """The sentence that ends a run whose dataset does not exist, and whose folder may be full."""
    command = ["train", "--dataset", str(folder / "nothing"), "--output_dir", str(folder / "out")]
    assert main([*command, *arguments]) == 1
    return capsys.readouterr().err.splitlines()[-1]


@pytest.fixture
def checkpoints(tmp_path):
    """The folder of a run that was killed after its second checkpoint."""
    for step in (10, 20):
        folder = tmp_path / "out" / "checkpoints" / f"step-{step:08d}"
        folder.mkdir(parents=True)
        (folder / "progress.json").write_text("{}")
    return tmp_path / "out" / "checkpoints"


@pytest.fixture
def model(tmp_path):
    """The folder of a run that has ended and saved no checkpoint."""
    (tmp_path / "out").mkdir()
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "out" / name).write_text("{}")
    return tmp_path / "out"


def test_a_new_run_does_not_replace_checkpoints(checkpoints, tmp_path, capsys):
    assert start(tmp_path, capsys) == (
        f"error: {checkpoints} holds checkpoints up to step-00000020, {REPLACED}: go on with "
        "--resume_from_checkpoint latest, choose another --output_dir, or let it do so with "
        "--overwrite_output_dir true"
    )


def test_a_new_run_does_not_replace_a_model(model, tmp_path, capsys):
    assert start(tmp_path, capsys) == (
        f"error: {model} holds a model, {REPLACED}: choose another --output_dir, or let it do so "
        "with --overwrite_output_dir true"
    )


def test_a_new_run_does_not_replace_checkpoints_of_an_object_store(tmp_path, capsys):
    place = f"memory://{tmp_path.name}"
    fsspec.filesystem("memory").pipe(f"{place}/step-00000007/progress.json", b"{}")
    message = start(tmp_path, capsys, "--checkpoint_dir", place)
    assert f"{place} holds checkpoints up to step-00000007, {REPLACED}" in message
    assert "choose another --checkpoint_dir," in message


@pytest.mark.parametrize(
    "way",
    [
        ("--overwrite_output_dir", "true"),
        ("--resume_from_checkpoint", "auto"),
        ("--output_dir", "elsewhere"),
    ],
    ids=lambda way: way[0],
)
def test_each_way_on_is_open(way, model, tmp_path, capsys):
    assert "nothing" in start(tmp_path, capsys, *way)


def test_a_checkpoint_that_was_never_completed_holds_up_no_run(tmp_path, capsys):
    (tmp_path / "out" / "checkpoints" / ".step-00000020.partial").mkdir(parents=True)
    assert REPLACED not in start(tmp_path, capsys)


def test_a_run_says_what_it_is_about_to_do(tmp_path, color_dataset, linear_config, capsys):
    recipe = write_recipe(tmp_path, color_dataset, linear_config, **FEW)
    training = build_trainer(parse_arguments(["--config", str(recipe)]))
    training.run()
    lines = capsys.readouterr().out.splitlines()
    first, second = lines[-2:]
    assert first.startswith("training on 16 rows (image: image; captions: caption_en, caption_zh)")
    assert "image tower 0." in first
    assert "text tower 0." in first
    assert f"vocabulary {len(training.processor.tokenizer)}" in first
    assert second == "in float32 on cpu, 1 process, batches of 16 images, 2 updates"
