"""From training with rounding to int8 in every runtime: the same embeddings, the same retrieval."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import train, write_recipe
from transformers import BatchFeature

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.loading import load_encoder

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

CAPTIONS = ["caption_en", "caption_zh"]
TEXTS = ["a red square", "蓝色方块", "green"]
RECALL = "retrieval/caption_en/text_to_image/R@1"

#: Loads a checkpoint where only Transformers knows of it, and embeds images.
PLAIN = """
import sys, torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
with torch.no_grad():
    torch.save(model.get_image_features(images).pooler_output, sys.argv[2])
"""


def embed(folder: Path) -> list[torch.Tensor]:
    encoder = load_encoder(str(folder))
    images = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    return [
        encoder.encode_inputs(BatchFeature({"pixel_values": images})),
        encoder.encode_text(TEXTS),
    ]


def recall(folder: Path, dataset: Path, output: Path) -> float:
    """What `clip-vit evaluate` finds of a checkpoint or an export."""
    words = ["--concept_column", "key", "--caption_columns", *CAPTIONS, "--tasks", "retrieval"]
    command = ["evaluate", str(folder), "--dataset", str(dataset), *words]
    assert main([*command, "--num_workers", "0", "--output_dir", str(output)]) == 0
    return json.loads((output / "metrics.json").read_text())["metrics"][RECALL]


@pytest.mark.parametrize("mode", ["dynamic", "static"])
def test_what_training_rounded_is_int8_in_every_runtime(
    mode, tmp_path, color_dataset, linear_config
):
    fields = {"view_loss_weight": 0, "max_steps": 80, "save_steps": 0, "eval_steps": 0}
    recipe = write_recipe(tmp_path, color_dataset, linear_config, quantization_mode=mode, **fields)
    train(recipe)
    out = tmp_path / "out"
    artifacts = {"trained": out / "int8"}
    for format in ("onnx", "openvino"):
        artifacts[format] = tmp_path / format
        command = ["export", str(out), str(artifacts[format]), "--format", format]
        data = ["--precision", "int8", "--calibration", str(color_dataset)]
        assert main([*command, *data]) == 0
    expected = embed(out)
    found = recall(out, color_dataset, tmp_path / "evaluation")
    assert found >= 0.5
    for name, folder in artifacts.items():
        for given, float_embeds in zip(embed(folder), expected, strict=True):
            cosines = (given * float_embeds).sum(dim=1)
            assert 0.97 < cosines.min() < 1 - 1e-6, name
        # One of eight queries may fall to the other side.
        assert recall(folder, color_dataset, tmp_path / name / "found") >= found - 0.13, name
    if mode == "dynamic":
        saved = tmp_path / "embeds.pt"
        command = [sys.executable, "-c", PLAIN, str(out / "int8"), str(saved)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        embeds = torch.nn.functional.normalize(torch.load(saved, weights_only=True), dim=-1)
        torch.testing.assert_close(embeds, embed(out / "int8")[0], atol=1e-5, rtol=0)
