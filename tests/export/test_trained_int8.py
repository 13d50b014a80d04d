"""From training with rounding to int8 in every runtime: the same embeddings, the same retrieval."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from datasets import load_dataset
from safetensors.torch import load_file

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.loading import load_encoder
from tests.support.runs import train, write_recipe

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("fresh_accelerate")]

CAPTIONS = ["caption_en", "caption_zh"]
TEXTS = ["a red square", "蓝色方块", "green"]
RECALL = "retrieval/caption_en/text_to_image/R@1"

#: Loads a checkpoint where only Transformers knows of it, and embeds images.
PLAIN = """
import sys
from datasets import load_dataset
from safetensors.torch import save_file
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1])
images = load_dataset(sys.argv[2], split="validation")["image"]
embeds = model.get_image_features(**processor(images=list(images), return_tensors="pt"))
save_file({"embeds": embeds.pooler_output.detach()}, sys.argv[3])
"""


def embed(folder: Path, dataset: Path) -> list[torch.Tensor]:
    encoder = load_encoder(str(folder))
    images = list(load_dataset(str(dataset), split="validation")["image"])
    return [encoder.encode_image(images), encoder.encode_text(TEXTS)]


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
    # Of static ranges that is an OpenVINO export; ONNX Runtime rounds the trained weights again.
    artifacts = {"trained": out / "int8", "onnx": tmp_path / "onnx"}
    command = ["export", str(out), str(artifacts["onnx"]), "--format", "onnx"]
    assert main([*command, "--precision", "int8"]) == 0
    expected = embed(out, color_dataset)
    found = recall(out, color_dataset, tmp_path / "evaluation")
    assert found >= 0.5
    for name, folder in artifacts.items():
        for given, float_embeds in zip(embed(folder, color_dataset), expected, strict=True):
            cosines = (given * float_embeds).sum(dim=1)
            # In this small a model, ranges that were fixed lose more than those of each input.
            least = 0.9 if mode == "dynamic" else 0.7
            assert least < cosines.min() < 1 - 1e-6, name
        # One of eight queries may fall to the other side.
        assert recall(folder, color_dataset, tmp_path / name / "found") >= found - 0.13, name
    if mode == "dynamic":
        saved = tmp_path / "embeds.safetensors"
        command = [sys.executable, "-c", PLAIN, str(out / "int8"), str(color_dataset), str(saved)]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        embeds = torch.nn.functional.normalize(load_file(saved)["embeds"], dim=-1)
        again = embed(out / "int8", color_dataset)[0]
        torch.testing.assert_close(embeds, again, atol=1e-5, rtol=0)
