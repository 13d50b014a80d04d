"""What docs/extending.md adds from outside the package works as it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import REPOSITORY, write_recipe
from safetensors.torch import load_file

from modeling_clip_vit.cli import main
from modeling_clip_vit.losses import LOSSES
from modeling_clip_vit.training.arguments import LossOptions
from modeling_clip_vit.training.tasks import TASKS
from modeling_clip_vit.training.tasks.objective import build_loss
from modeling_clip_vit.utils.errors import UserError

#: Code block of the document -> the option of the run, its value, and a weight that the run saves.
ADDITIONS = {
    1: ("loss", "margin", "visual_projection.weight"),
    2: ("attn_implementation", "capped", "visual_projection.weight"),
    3: (
        "vision_fields",
        {"attention_type": "gated"},
        "vision_model.encoder.layers.1.attention.gate_proj.weight",
    ),
    4: (
        "vision_fields",
        {"norm_type": "scalenorm"},
        "vision_model.encoder.layers.1.norm2.scale",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("document", ["extending.md", "extending.zh-CN.md"])
@pytest.mark.parametrize("number", ADDITIONS)
def test_what_is_added_from_outside_trains(
    document, number, tmp_path, color_dataset, linear_config
):
    option, value, weight = ADDITIONS[number]
    fields = {"images_per_concept": 1, "view_loss_weight": 0, "per_device_train_batch_size": 8}
    fields |= {"caption_sampling": "one", "save_steps": 0, "eval_steps": 0}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, report_to="none", **fields)
    recipe.rename(tmp_path / "my_recipe.yaml")
    text = (REPOSITORY / "docs" / document).read_text(encoding="utf-8")
    blocks = text.split("```python\n")[1:]
    assert len(blocks) == len(ADDITIONS)
    (tmp_path / "addition.py").write_text(blocks[number - 1].split("```")[0])
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "addition.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
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
