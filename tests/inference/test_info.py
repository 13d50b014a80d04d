"""What `clip-vit info` says of a checkpoint, an export and an index."""

import json

import pytest
from transformers import AutoModel

from modeling_clip_vit.cli import main
from tests.support.indexes import make_index, rows_of, write_pictures


def info(path, capsys) -> dict:
    assert main(["info", str(path), "--format", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_parameters_are_those_of_the_model(checkpoint, capsys):
    facts = info(checkpoint, capsys)
    model = AutoModel.from_pretrained(checkpoint)
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    towers = {"image tower": model.vision_model, "text tower": model.text_model}
    for name, tower in towers.items():
        assert facts[name]["parameters"] == sum(it.numel() for it in tower.parameters())


def test_operations_are_those_of_the_products(checkpoint, capsys):
    """The text tower's products, counted by hand: projections, attention and feed-forward."""
    facts = info(checkpoint, capsys)
    config = AutoModel.from_pretrained(checkpoint).config
    text = config.text_config
    length, size = text.max_position_embeddings, text.hidden_size
    block = 4 * length * size * size + 2 * length * length * size
    block += 2 * length * size * text.intermediate_size
    total = text.num_hidden_layers * block + size * config.projection_dim
    assert facts["text tower"]["GFLOPs per text"] == pytest.approx(2 * total / 1e9, rel=0.05)


def test_an_export_is_described_without_running_it(exported, capsys):
    facts = info(exported, capsys)
    assert (facts["kind"], facts["format"]) == ("exported model", "onnx")
    assert facts["parts"].keys() == {"image", "text"}
    size = sum(path.stat().st_size for path in exported.iterdir() if path.name != "export.json")
    assert facts["size in MB"] == pytest.approx(size / 1e6, abs=0.1)


def test_an_index_is_described_with_its_model(exported, tmp_path, capsys):
    write_pictures(tmp_path / "p", 6)
    (tmp_path / "p" / "broken.png").write_bytes(b"no picture")
    make_index(exported, tmp_path / "p", tmp_path / "i")
    capsys.readouterr()
    facts = info(tmp_path / "i", capsys)
    assert (facts["pictures"], facts["unreadable"]) == (6, 1)
    assert facts["model"] == str(exported)
    assert facts["sources"] == [f"{tmp_path / 'p'} (files)"]


def test_what_cannot_be_read_is_listed_with_its_reason(exported, tmp_path, capsys):
    write_pictures(tmp_path / "p", 2)
    for name in ("broken.png", "also broken.png"):
        (tmp_path / "p" / name).write_bytes(b"no picture")
    index = make_index(exported, tmp_path / "p", tmp_path / "i")
    reasons = {id: row["error"] for id, row in rows_of(index).items() if row["error"]}
    capsys.readouterr()
    assert info(tmp_path / "i", capsys)["cannot be read"] == reasons
    assert sorted(reasons) == ["also broken.png", "broken.png"]


def test_what_is_none_of_them_ends_in_one_sentence(tmp_path, capsys):
    assert main(["info", str(tmp_path / "none")]) == 1
    assert capsys.readouterr().err.startswith(f"error: no checkpoint folder '{tmp_path / 'none'}'")
    (tmp_path / "export.json").write_text("[]")
    assert main(["info", str(tmp_path)]) == 1
    assert "is no export of this package" in capsys.readouterr().err


def test_the_table_has_a_line_per_fact(exported, capsys):
    assert main(["info", str(exported)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["format", "onnx"] for line in lines)
