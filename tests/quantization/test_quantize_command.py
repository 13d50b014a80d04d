"""The command `clip-vit quantize`: every mode, the report, and bad input."""

import json

import pytest
import torch
from PIL import Image

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.embedding import embed_pixels, embed_texts
from modeling_clip_vit.inference.loading import load_clip
from modeling_clip_vit.quantization.evaluation_set import read_quantization_set
from modeling_clip_vit.quantization.layers import choose_layers
from modeling_clip_vit.quantization.sensitivity import measure_sensitivity

pytestmark = pytest.mark.slow

COLUMNS = ["--caption_columns", "[caption_en, caption_zh]", "--concept_column", "key"]
BROKEN = "vision_model.encoder.layers.0.attention.qkv_proj"


@pytest.fixture
def samples(color_dataset):
    columns = ["caption_en", "caption_zh"]
    return read_quantization_set(str(color_dataset), "validation", 32, "image", columns, "key")


@pytest.mark.parametrize("mode", ["dynamic", "weight_only"])
def test_every_mode_writes_a_model_that_embeds_alike(
    mode, checkpoint, color_dataset, samples, tmp_path, capsys
):
    data = ["--dataset", str(color_dataset), *COLUMNS]
    target = tmp_path / "small"
    assert main(["quantize", str(checkpoint), str(target), "--mode", mode, *data]) == 0
    assert f"is now {target}" in capsys.readouterr().out
    model, processor = load_clip(str(checkpoint))
    small, _ = load_clip(str(target))
    for embed in (
        lambda one: embed_pixels(one, processor, samples.images.pixels),
        lambda one: embed_texts(one, processor.tokenizer, samples.captions["caption_zh"]),
    ):
        given, expected = embed(small), embed(model)
        assert (given * expected).sum(dim=1).min() > 0.98
        assert not torch.equal(given, expected)
    facts = json.loads((target / "quantization.json").read_text())
    assert facts["bytes"] < facts["float_bytes"]
    assert facts["metrics"].keys() == facts["float_metrics"].keys()


@torch.no_grad()
def test_the_report_ranks_a_broken_layer_first(
    checkpoint, color_dataset, samples, tmp_path, capsys
):
    model, processor = load_clip(str(checkpoint))
    block = model.vision_model.encoder.layers[0]
    # The same function in float; but the scale of a row now fits one weight of it alone.
    block.norm1.weight[0] /= 1000
    block.norm1.bias[0] /= 1000
    block.attention.qkv_proj.weight[:, 0] *= 1000
    broken = tmp_path / "broken"
    model.save_pretrained(broken)
    processor.save_pretrained(broken)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = measure_sensitivity(model, processor, samples, choose_layers(model, embeddings=True))
    assert found[0].layer == "all"
    assert found[1].layer == BROKEN
    assert found[1].distance > 5 * found[2].distance
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    target = tmp_path / "report"
    arguments = ["--report", "--dataset", str(color_dataset), *COLUMNS]
    assert main(["quantize", str(broken), str(target), *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[3].startswith(f"| {BROKEN} ")
    listed = json.loads((target / "sensitivity.json").read_text())
    assert listed[1]["layer"] == BROKEN
    assert len(listed) == 1 + len(choose_layers(model))
    assert Image.open(target / "sensitivity.png").size[0] > 300


def test_bad_input_ends_in_one_sentence(checkpoint, color_dataset, tmp_path, capsys):
    def refused(*arguments: str) -> str:
        assert main(["quantize", *arguments]) == 1
        lines = [line for line in capsys.readouterr().err.splitlines() if line[:7] == "error: "]
        assert len(lines) == 1
        return lines[0]

    source, target = str(checkpoint), str(tmp_path / "small")
    assert "no folder to write to" in refused(source)
    assert "--report needs --dataset" in refused(source, "--report")
    assert "no layer is called 'text_mode.*'" in refused(source, target, "--skip", "[text_mode.*]")
    assert "no column 'caption': it has image, caption_en" in refused(
        source, target, "--dataset", str(color_dataset)
    )
    data = [source, target, "--dataset", str(color_dataset)]
    assert "no column 'hex': it has image" in refused(
        *data, "--caption_columns", "[caption_en]", "--concept_column", "hex"
    )
    assert "--caption_columns names no column" in refused(*data, "--caption_columns", "[]")
    assert "no checkpoint folder" in refused("./nowhere", target)
    assert "is not an empty folder" in refused(source, source)
    assert main(["quantize", source, target]) == 0
    assert "is quantised already" in refused(target, str(tmp_path / "again"))
    assert not list(tmp_path.glob(".*.partial"))
