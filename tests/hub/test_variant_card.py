"""The short cards of what comes without one."""

import json
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard

from modeling_clip_vit.cli import main
from modeling_clip_vit.hub.contents import read_contents
from modeling_clip_vit.hub.variant_card import build_variant_cards

REPO = "user/thing"


def write(folder: Path, files: dict) -> Path:
    """A folder with JSON files, and empty ones."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(json.dumps(content) if content is not None else "")
    return folder


def adapter(folder: Path, base: str) -> Path:
    config = {"peft_type": "LORA", "base_model_name_or_path": base}
    return write(folder, {"adapter_config.json": config, "adapter_model.safetensors": None})


EXPORT = {"format": "onnx", "precision": "fp32", "image_size": 32, "max_text_length": 16}
EXPORT |= {"embedding_size": 8, "files": {"text.onnx": {}}}
QUANTIZED = {"mode": "dynamic", "weight_bits": 8, "bytes": 2_000_000}
QUANTIZED |= {"metrics": {"validation/R@1": 0.5}, "float_metrics": {"validation/R@1": 0.625}}


def card_of(folder: Path) -> ModelCard:
    return ModelCard(build_variant_cards(read_contents(folder), REPO)["README.md"])


def test_an_adapter_names_its_base_model(tmp_path):
    card = card_of(adapter(tmp_path, "user/clip"))
    assert (card.data.base_model, card.data.base_model_relation) == ("user/clip", "adapter")
    assert card.data.library_name == "peft"
    assert 'from_pretrained("user/clip"' in card.text


def test_a_folder_of_this_machine_is_not_named(tmp_path):
    card = card_of(adapter(tmp_path, "/home/me/outputs/emoji"))
    assert card.data.base_model is None
    assert "/home/me" not in card.text


def test_an_export_says_what_it_takes(tmp_path):
    card = card_of(write(tmp_path, {"export.json": EXPORT, "text.onnx": None}))
    assert "exported to onnx, fp32" in card.text
    assert card.data.library_name == "onnx"


@pytest.mark.parametrize(
    ("name", "facts", "weights"),
    [
        ("export.json", EXPORT, "text.onnx"),
        ("quantization.json", {**QUANTIZED}, "model.safetensors"),
    ],
)
def test_what_was_made_from_a_model_of_the_hub_names_it(tmp_path, name, facts, weights):
    files = {name: {**facts, "base_model": "user/clip"}, weights: None, "config.json": {}}
    card = card_of(write(tmp_path, files))
    assert (card.data.base_model, card.data.base_model_relation) == ("user/clip", "quantized")
    assert "from `user/clip`" in card.text


def test_what_was_made_from_a_folder_names_no_model(tmp_path):
    files = {"quantization.json": QUANTIZED, "config.json": {}, "model.safetensors": None}
    cards = build_variant_cards(read_contents(write(tmp_path, files)), REPO)
    assert not [name for name, text in cards.items() if "user/name" in text]


def test_a_quantised_model_is_compared_with_the_float_one(tmp_path, checkpoint):
    files = {"quantization.json": QUANTIZED, "config.json": {}, "model.safetensors": None}
    card = card_of(write(tmp_path, files))
    assert "| validation/R@1 | 0.625 | 0.5 |" in card.text
    assert "2.0 MB" in card.text


def test_an_index_is_a_dataset(tmp_path):
    files = {"index.json": {}, "pictures.lance/a": None}
    contents = read_contents(write(tmp_path, files))
    card = DatasetCard(build_variant_cards(contents, REPO)["README.md"])
    assert "image-search" in card.data.tags


def test_both_languages_have_the_same_metadata(tmp_path):
    contents = read_contents(adapter(tmp_path, "user/clip"))
    english, chinese = map(ModelCard, build_variant_cards(contents, REPO).values())
    assert english.data.to_dict() == chinese.data.to_dict()


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_it_goes_up_and_is_not_written_into_the_folder(hub, tmp_path, name):
    folder = adapter(tmp_path / "adapter", "user/clip")
    assert main(["push", str(folder), REPO]) == 0
    assert name in hub.store.names("model", REPO)
    assert not (folder / name).exists()


def test_a_card_on_the_hub_stays(hub, tmp_path):
    folder = adapter(tmp_path / "adapter", "user/clip")
    hub.store.create("model", REPO, False, {})
    hub.store.write("model", REPO, {"README.md": b"# Theirs\n"})
    assert main(["push", str(folder), REPO]) == 0
    assert hub.store.read("model", REPO, "README.md") == b"# Theirs\n"
