"""The command `clip-vit quantize`: every mode, the report, and bad input."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModel

from modeling_clip_vit.cli import main
from modeling_clip_vit.evaluation.options import EvaluationOptions
from modeling_clip_vit.inference.loading import load_clip, load_encoder
from modeling_clip_vit.quantization.evaluation_set import read_quantization_set
from modeling_clip_vit.quantization.layers import choose_layers
from modeling_clip_vit.quantization.sensitivity import measure_sensitivity
from tests.support.hub import fill_hub_cache

pytestmark = pytest.mark.slow

COLUMNS = ["--caption_columns", "[caption_en, caption_zh]", "--concept_column", "key"]
BROKEN = "vision_model.encoder.layers.0.attention.qkv_proj"


@pytest.fixture
def samples(color_dataset):
    columns = ["caption_en", "caption_zh"]
    options = EvaluationOptions(
        dataset=str(color_dataset), caption_columns=columns, concept_column="key"
    )
    return read_quantization_set(options, 32)


@pytest.fixture(scope="module", params=["dynamic", "weight_only"])
def small(request, checkpoint, color_dataset, tmp_path_factory) -> Path:
    """The folder that the command writes in a mode."""
    target = tmp_path_factory.mktemp(request.param) / "small"
    data = ["--dataset", str(color_dataset), *COLUMNS]
    assert main(["quantize", str(checkpoint), str(target), "--mode", request.param, *data]) == 0
    return target


@pytest.mark.parametrize("side", ["image", "text"])
def test_every_mode_writes_a_model_that_embeds_nearly_as_the_source(
    small, side, checkpoint, samples
):
    embeds = []
    for folder in (small, checkpoint):
        encoder = load_encoder(str(folder))
        if side == "image":
            embeds.append(encoder.encode_pixels(samples.images.pixels))
        else:
            embeds.append(encoder.encode_text(samples.captions["caption_zh"]))
    assert (embeds[0] * embeds[1]).sum(dim=1).min() > 0.98
    assert not torch.equal(*embeds)


def test_the_size_of_a_model_on_the_hub_is_known(checkpoint, offline, tmp_path):
    fill_hub_cache(offline, "user/clip", checkpoint)
    assert main(["quantize", "user/clip", str(tmp_path / "small")]) == 0
    facts = json.loads((tmp_path / "small" / "quantization.json").read_text())
    weights = AutoModel.from_pretrained(checkpoint).parameters()
    assert facts["float_bytes"] >= sum(weight.nbytes for weight in weights) > 0


def test_the_written_model_is_smaller(small):
    facts = json.loads((small / "quantization.json").read_text())
    assert facts["bytes"] < facts["float_bytes"]


def test_both_models_are_measured(small):
    facts = json.loads((small / "quantization.json").read_text())
    assert facts["metrics"]
    assert facts["metrics"].keys() == facts["float_metrics"].keys()


@pytest.fixture
def broken(checkpoint) -> tuple:
    """A model that computes the same in float, but whose one layer rounds badly; its processor."""
    model, processor = load_clip(str(checkpoint))
    block = model.vision_model.encoder.layers[0]
    with torch.no_grad():
        # The scale of each row now fits its first weight alone.
        block.norm1.weight[0] /= 1000
        block.norm1.bias[0] /= 1000
        block.attention.qkv_proj.weight[:, 0] *= 1000
    return model, processor


def test_a_layer_that_rounds_badly_ranks_first(broken, samples):
    model, processor = broken
    layers = choose_layers(model, embeddings=True)
    whole, first, second, *_ = measure_sensitivity(model, processor, samples, layers)
    assert whole.layer == "all"
    assert first.layer == BROKEN
    assert first.distance > 5 * second.distance


def test_measuring_leaves_the_weights_as_they_were(broken, samples):
    model, processor = broken
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measure_sensitivity(model, processor, samples, [BROKEN])
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_report_lists_every_layer_from_the_worst(broken, color_dataset, tmp_path, capsys):
    model, processor = broken
    model.save_pretrained(tmp_path / "broken")
    processor.save_pretrained(tmp_path / "broken")
    target = tmp_path / "report"
    arguments = ["--report", "--dataset", str(color_dataset), *COLUMNS]
    assert main(["quantize", str(tmp_path / "broken"), str(target), *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[3].startswith(f"| {BROKEN} ")
    listed = json.loads((target / "sensitivity.json").read_text())
    assert listed[1]["layer"] == BROKEN
    assert len(listed) == 1 + len(choose_layers(model))
    assert Image.open(target / "sensitivity.png").size[0] > 300


DATA = ("--dataset", "{data}")
#: What the error says -> the arguments, in which braces stand for folders.
REJECTED = {
    "no folder to write to": ("{source}",),
    "--report needs --dataset": ("{source}", "--report"),
    "no layer is called 'text_mode.*'": ("{source}", "{target}", "--skip", "[text_mode.*]"),
    "no column 'caption': it has image, caption_en": (
        *("{source}", "{target}", *DATA),
        *("--caption_columns", "[caption]"),
    ),
    "no column 'hex': it has image": (
        *("{source}", "{target}", *DATA),
        *("--caption_columns", "[caption_en]", "--concept_column", "hex"),
    ),
    "needs a column of captions": (
        *("{source}", "{target}", *DATA),
        *("--caption_columns", "[]"),
    ),
    "no checkpoint folder": ("./nowhere", "{target}"),
    "is not an empty folder": ("{source}", "{source}"),
}


def reject(capsys, *arguments: str) -> str:
    """The one sentence in which the command ends."""
    assert main(["quantize", *arguments]) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("sentence", REJECTED)
def test_arguments_that_do_not_fit_are_rejected(
    sentence, checkpoint, color_dataset, tmp_path, capsys
):
    folders = {"source": checkpoint, "target": tmp_path / "small", "data": color_dataset}
    arguments = [word.format(**folders) for word in REJECTED[sentence]]
    assert sentence in reject(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_a_quantised_checkpoint_is_not_quantised_again(small, tmp_path, capsys):
    assert "is quantised already" in reject(capsys, str(small), str(tmp_path / "again"))
