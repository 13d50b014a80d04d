"""What docs/extending.md adds from outside the package works as it says."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.sources import open_dataset
from modeling_clip_vit.losses import LOSSES, ContrastiveLoss
from modeling_clip_vit.training.options import LossOptions
from modeling_clip_vit.training.tasks import TASKS
from modeling_clip_vit.training.tasks.objective import build_loss
from modeling_clip_vit.utils.errors import UserError
from tests.support import REPOSITORY
from tests.support.runs import write_recipe

#: Text in a code block -> the option of the run, its value, and a weight that the run saves.
ADDITIONS = {
    "class MarginLoss": ("loss", "margin", "visual_projection.weight"),
    "def capped_attention": ("attn_implementation", "capped", "visual_projection.weight"),
    "class ScaledHeads": (
        "vision_fields",
        {"attention_type": "scaled_heads"},
        "vision_model.encoder.layers.1.attention.head_scale",
    ),
    "class ScaleNorm": (
        "vision_fields",
        {"norm_type": "scalenorm"},
        "vision_model.encoder.layers.1.norm2.scale",
    ),
    "class WeightedMean": (
        "vision_fields",
        {"pooling": "weighted_mean"},
        "vision_model.pooling.score.weight",
    ),
    "class DatabaseSource": ("dataset", "databases", "visual_projection.weight"),
}


def run_block(document: str, of: str, folder: Path) -> subprocess.CompletedProcess:
    """Run the code block of a document that has a text in it, in a process of its own."""
    text = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    blocks = [block.split("```")[0] for block in text.split("```python\n")[1:]]
    (code,) = (block for block in blocks if of in block)
    (folder / "addition.py").write_text(code)
    done = subprocess.run(
        [sys.executable, "addition.py"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done


DOCUMENTS = ["extending.md", "extending.zh-CN.md"]


def write_databases(folder: Path, dataset: Path):
    """The splits of a dataset as SQLite databases."""
    folder.mkdir()
    columns = ("image", "caption_en", "caption_zh", "key", "kind")
    for split, rows in open_dataset(str(dataset)).items():
        classes = rows.features["kind"]
        table = sqlite3.connect(folder / f"{split}.sqlite")
        table.execute(f"CREATE TABLE samples ({', '.join(columns)})")
        for row in rows:
            row |= {"image": row["image"]["bytes"], "kind": classes.int2str(row["kind"])}
            values = [row[column] for column in columns]
            table.execute("INSERT INTO samples VALUES (?, ?, ?, ?, ?)", values)
        table.commit()


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_an_evaluation_task_added_from_outside_is_measured(
    document, tmp_path, checkpoint, color_dataset
):
    (tmp_path / "outputs").mkdir()
    (tmp_path / "outputs" / "run").symlink_to(checkpoint)
    (tmp_path / "my_dataset").symlink_to(color_dataset)
    done = run_block(document, "class ModalityGapTask", tmp_path)
    report = json.loads((tmp_path / "outputs" / "evaluation" / "metrics.json").read_text())
    assert 0 < report["metrics"]["modality_gap/caption_en/distance"] < 2
    assert "| Modality gap | distance |" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
@pytest.mark.parametrize("block", ADDITIONS)
def test_what_is_added_from_outside_trains(document, block, tmp_path, color_dataset, linear_config):
    option, value, weight = ADDITIONS[block]
    fields = {"images_per_concept": 1, "view_loss_weight": 0, "per_device_train_batch_size": 8}
    fields |= {"caption_sampling": "one", "save_steps": 0, "eval_steps": 0}
    fields |= {"tags_columns": {}} if option == "dataset" else {}
    write_databases(tmp_path / "databases", color_dataset)
    recipe = write_recipe(tmp_path, color_dataset, linear_config, report_to="none", **fields)
    recipe.rename(tmp_path / "my_recipe.yaml")
    run_block(document, block, tmp_path)
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["recipe"][option] == value
    assert weight in load_file(tmp_path / "out" / "model.safetensors")
    # Eight colours: guessing finds one in eight.
    assert report["metrics"]["validation/caption_en/text_to_image/R@1"] >= 0.25


def test_an_unknown_loss_or_task_is_rejected_with_the_known_ones(
    tmp_path, color_dataset, linear_config, capsys
):
    recipe: Path = write_recipe(tmp_path, color_dataset, linear_config)
    for option, table in (("loss", LOSSES), ("task", TASKS)):
        assert main(["train", "--config", str(recipe), f"--{option}", "other"]) == 1
        message = capsys.readouterr().err
        assert all(name in message for name in table), message


def test_an_option_that_another_loss_takes_is_rejected():
    with pytest.raises(UserError, match=r"hard_negative_beta=0.5 is not allowed with loss='clip'"):
        build_loss(LossOptions(loss="clip", hard_negative_beta=0.5))
    with pytest.raises(UserError, match=r"label_smoothing=0.1.*use clip or multi_positive"):
        build_loss(LossOptions(loss="siglip", label_smoothing=0.1))


def test_a_loss_that_needs_all_texts_at_once_rejects_a_ring(monkeypatch):
    class Other(ContrastiveLoss):
        def local_loss(self, contrast, targets, **kwargs):
            return contrast.all_texts.sum()

    monkeypatch.setitem(LOSSES, "other", Other)
    for options, reason in (
        ({"loss": "other"}, "loss='other'"),
        ({"loss": "clip", "teacher_name_or_path": "x"}, "teacher_name_or_path"),
    ):
        message = f"loss_exchange='ring' is not allowed with {reason}, .*: use 'gather'"
        with pytest.raises(UserError, match=message):
            build_loss(LossOptions(loss_exchange="ring", **options))
    assert build_loss(LossOptions(loss="siglip", loss_exchange="ring")).exchange == "ring"
