"""From training with rounding to int8 in every runtime: the same embeddings, the same retrieval."""

import json
import subprocess
import sys
from dataclasses import dataclass
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
    """R@1 by `clip-vit evaluate` of a checkpoint or an export."""
    words = ["--concept_column", "key", "--caption_columns", *CAPTIONS, "--tasks", "retrieval"]
    command = ["evaluate", str(folder), "--dataset", str(dataset), *words]
    assert main([*command, "--num_workers", "0", "--output_dir", str(output)]) == 0
    return json.loads((output / "metrics.json").read_text())["metrics"][RECALL]


@dataclass
class Models:
    """A model that was trained with rounding, in float and in the integers of two runtimes."""

    mode: str
    floats: Path
    #: In PyTorch, or with static ranges in OpenVINO.
    trained: Path
    #: ONNX Runtime rounds the trained weights again.
    onnx: Path


@pytest.fixture(scope="module", params=["dynamic", "static"])
def models(request, tmp_path_factory, color_dataset, linear_config) -> Models:
    folder = tmp_path_factory.mktemp(request.param)
    fields = {"view_loss_weight": 0, "max_steps": 80, "save_steps": 0, "eval_steps": 0}
    fields["quantization_mode"] = request.param
    train(write_recipe(folder, color_dataset, linear_config, **fields))
    out = folder / "out"
    command = ["export", str(out), str(folder / "onnx"), "--format", "onnx"]
    assert main([*command, "--precision", "int8"]) == 0
    return Models(request.param, out, out / "int8", folder / "onnx")


@pytest.mark.parametrize("kind", ["trained", "onnx"])
def test_integers_embed_nearly_as_floats(models, color_dataset, kind):
    # In this small a model, fixed ranges lose more than those of each input.
    least = 0.9 if models.mode == "dynamic" else 0.7
    embeds = embed(getattr(models, kind), color_dataset)
    for rounded, exact in zip(embeds, embed(models.floats, color_dataset), strict=True):
        assert least < (rounded * exact).sum(dim=1).min() < 1 - 1e-6


@pytest.mark.parametrize("kind", ["trained", "onnx"])
def test_integers_retrieve_nearly_as_floats(models, color_dataset, tmp_path, kind):
    exact = recall(models.floats, color_dataset, tmp_path / "floats")
    assert exact >= 0.5  # guessing finds one in eight
    # One of eight queries may have another answer.
    assert recall(getattr(models, kind), color_dataset, tmp_path / kind) >= exact - 0.13


#: Static ranges are an OpenVINO export, which no other package loads.
@pytest.mark.parametrize("models", ["dynamic"], indirect=True)
def test_a_process_without_the_package_embeds_the_same(models, color_dataset, tmp_path):
    saved = tmp_path / "embeds.safetensors"
    command = [sys.executable, "-c", PLAIN, str(models.trained), str(color_dataset), str(saved)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    embeds = torch.nn.functional.normalize(load_file(saved)["embeds"], dim=-1)
    expected = embed(models.trained, color_dataset)[0]
    torch.testing.assert_close(embeds, expected, atol=1e-5, rtol=0)
