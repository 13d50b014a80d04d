"""Merging two checkpoints."""

import pytest
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel

from modeling_clip_vit.cli import main
from modeling_clip_vit.inference.loading import load_clip, load_encoder
from tests.support.models import small_model


@pytest.fixture
def other(checkpoint, tmp_path):
    """The same model with other weights."""
    model, processor = load_clip(str(checkpoint))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    model.save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    return tmp_path / "other"


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_every_weight_lies_between(alpha, checkpoint, other, tmp_path, capsys):
    target = tmp_path / "merged"
    assert main(["merge", str(checkpoint), str(other), str(target), "--alpha", str(alpha)]) == 0
    assert f"{alpha:g} of {other}" in capsys.readouterr().out
    first, second, merged = (
        AutoModel.from_pretrained(path).state_dict() for path in (checkpoint, other, target)
    )
    for name, weight in merged.items():
        expected = (1 - alpha) * first[name].double() + alpha * second[name].double()
        torch.testing.assert_close(weight, expected.float(), rtol=1e-6, atol=1e-7)


def test_a_merged_folder_embeds_texts_and_loads_with_sentence_transformers(
    checkpoint, other, tmp_path
):
    target = tmp_path / "merged"
    assert main(["merge", str(checkpoint), str(other), str(target), "--alpha", "1"]) == 0
    merged, expected = (
        load_encoder(str(folder)).encode_text(["a red square"]) for folder in (target, other)
    )
    assert torch.equal(merged, expected)
    encoder = SentenceTransformer(str(target), device="cpu")
    again = encoder.encode(["a red square"], convert_to_tensor=True)
    torch.testing.assert_close(again, expected)


#: What differs -> the fields of the other model, and what the sentence names.
APART = {
    "width": (
        {"vision": {"intermediate_size": 48}},
        "vision_model.encoder.layers.0.feed_forward.fc1.bias (64,) and (48,)",
    ),
    "depth": ({"vision": {"num_hidden_layers": 1}}, "(32,) and missing"),
    "activation": ({"vision": {"hidden_act": "relu"}}, "vision_config.hidden_act"),
}


@pytest.mark.parametrize("what", list(APART))
def test_other_architectures_are_rejected_by_name(what, checkpoint, tmp_path, capsys):
    fields, sentence = APART[what]
    _, processor = load_clip(str(checkpoint))
    text = {"pooling": "mean", "is_causal": False}
    small_model(**{"text": text, **fields}).save_pretrained(tmp_path / "other")
    processor.save_pretrained(tmp_path / "other")
    target = tmp_path / "merged"
    assert main(["merge", str(checkpoint), str(tmp_path / "other"), str(target)]) == 1
    error = capsys.readouterr().err
    assert "the models cannot be merged: they differ in" in error
    assert sentence in error
    assert not target.exists()


def test_a_share_outside_of_0_to_1_is_rejected(checkpoint, other, tmp_path, capsys):
    pair = [str(checkpoint), str(other)]
    assert main(["merge", *pair, str(tmp_path / "merged"), "--alpha", "1.5"]) == 1
    assert "alpha=1.5 is not allowed: it must be from 0 to 1" in capsys.readouterr().err


def test_a_target_that_is_not_empty_is_rejected(checkpoint, other, capsys):
    assert main(["merge", str(checkpoint), str(other), str(other)]) == 1
    assert "exists and is not an empty folder" in capsys.readouterr().err


def test_different_vocabularies_are_rejected(checkpoint, other, tmp_path, capsys):
    tokens = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(tokens.replace('"<bos>"', '"<start>"'))
    assert main(["merge", str(checkpoint), str(other), str(tmp_path / "merged")]) == 1
    assert "use different vocabularies" in capsys.readouterr().err
