"""The command `clip-vit convert`."""

from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file
from sentence_transformers import SentenceTransformer
from transformers import AutoProcessor

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.cli import main
from modeling_clip_vit.conversion import (
    from_hf_chinese_clip,
    from_open_clip,
)
from modeling_clip_vit.conversion.peers import PEERS
from tests.support.checkpoints import MISFITS, spoil
from tests.support.models import small_model
from tests.support.peers import (
    NARROW,
    WIDE,
    assert_bit_equal,
    hf_chinese_clip,
    hf_clip,
    hf_siglip,
    open_clip_siglip,
    stir,
)


def convert(folder, source: str, target: str, to: str = "clip_vit") -> int:
    return main(["convert", str(folder / source), str(folder / target), "--to", to])


@pytest.mark.parametrize("to", ["hf_clip", "open_clip"])
def test_it_converts_there_and_back(tmp_path, capsys, to):
    torch.manual_seed(0)
    peer = stir(hf_clip(2, {**NARROW, "num_attention_heads": 4}))
    peer.config.text_config.max_position_embeddings = 77
    peer.save_pretrained(tmp_path / "peer")
    assert convert(tmp_path, "peer", "ours") == 0
    assert convert(tmp_path, "ours", "there", to) == 0
    assert convert(tmp_path, "there", "back") == 0
    printed = capsys.readouterr().out
    assert printed.count("largest differences: image_embeds") == 3
    first, last = (load_file(tmp_path / name / "model.safetensors") for name in ("ours", "back"))
    assert all(torch.equal(first[key], last[key]) for key in first)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("trunk", "size", "is_second"),
    [("vit_narrow_patch8_siglip_32", 32, False), ("vit_wide_patch8_siglip_32", 48, True)],
)
def test_siglip_of_open_clip_is_written_as_open_clip_loads_it(tmp_path, trunk, size, is_second):
    torch.manual_seed(0)
    peer = stir(open_clip_siglip(trunk, size, is_second))
    ours = from_open_clip(peer)
    ours.save_pretrained(tmp_path / "ours")
    assert convert(tmp_path, "ours", "there", "open_clip") == 0
    again = open_clip.create_model(f"local-dir:{tmp_path / 'there'}")
    assert type(again) is open_clip.CustomTextCLIP
    assert_bit_equal(again, peer)
    assert convert(tmp_path, "there", "back") == 0
    assert_bit_equal(ClipVitModel.from_pretrained(tmp_path / "back"), ours)


@pytest.mark.parametrize("sizes", [NARROW, WIDE])
def test_chinese_clip_is_read(tmp_path, capsys, sizes):
    torch.manual_seed(0)
    peer = stir(hf_chinese_clip(2, sizes))
    peer.save_pretrained(tmp_path / "peer")
    assert convert(tmp_path, "peer", "ours") == 0
    assert "(hf_chinese_clip) is now" in capsys.readouterr().out
    ours = ClipVitModel.from_pretrained(tmp_path / "ours")
    assert_bit_equal(ours, from_hf_chinese_clip(peer))


def test_the_source_is_loaded_once(tmp_path, monkeypatch):
    hf_siglip(1, NARROW).save_pretrained(tmp_path / "peer")
    loaded = []
    load = PEERS["hf_siglip"].load

    def count(source):
        loaded.append(source)
        return load(source)

    # The table's rows cannot be changed; what stands in the table can.
    row = PEERS["hf_siglip"]
    monkeypatch.setitem(PEERS, "hf_siglip", type(row)(**{**vars(row), "load": count}))
    assert convert(tmp_path, "peer", "ours") == 0
    assert len(loaded) == 1


def test_a_file_of_weights_is_a_source(tmp_path):
    hf_clip(1, NARROW).save_pretrained(tmp_path / "peer")
    assert convert(tmp_path, "peer/model.safetensors", "ours") == 0
    assert (tmp_path / "ours" / "model.safetensors").is_file()


def test_half_precision_stays(tmp_path):
    hf_clip(1, NARROW).half().save_pretrained(tmp_path / "peer")
    assert convert(tmp_path, "peer", "ours") == 0
    state = load_file(tmp_path / "ours" / "model.safetensors")
    assert {weight.dtype for weight in state.values()} == {torch.float16}


def save_another_type(folder: Path):
    folder.mkdir()
    (folder / "config.json").write_text('{"model_type": "vit"}')


#: What the error says -> what saves the source, and the target's kind.
IMPOSSIBLE = {
    "SigLIP cannot hold": (lambda source: small_model().save_pretrained(source), "hf_siglip"),
    "no checkpoint folder": (lambda source: None, "clip_vit"),
    "holds a model of type 'vit'": (save_another_type, "clip_vit"),
    "timm has no SigLIP": (
        lambda source: hf_siglip(1, WIDE).save_pretrained(source),
        "open_clip",
    ),
}


@pytest.mark.parametrize("sentence", IMPOSSIBLE)
def test_what_cannot_be_converted_is_rejected_and_leaves_no_folder(tmp_path, capsys, sentence):
    save, to = IMPOSSIBLE[sentence]
    save(tmp_path / "source")
    assert convert(tmp_path, "source", "target", to) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "target").exists()


def test_a_target_that_is_not_empty_is_rejected_and_left_as_it_is(tmp_path, capsys):
    small_model().save_pretrained(tmp_path / "ours")
    target = tmp_path / "target"
    target.mkdir()
    (target / "mine.txt").write_text("keep")
    assert convert(tmp_path, "ours", "target") == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in target.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize("kind", ["ours", "peer"])
def test_it_converts_no_checkpoint_that_lacks_weights(tmp_path, capsys, kind):
    source, target = tmp_path / kind, tmp_path / "target"
    sentence = MISFITS["lacks"]
    if kind == "ours":
        small_model().save_pretrained(source)
        spoil(source, "lacks")
    else:
        state = (peer := hf_clip(1, NARROW)).state_dict()
        sentence = "it lacks text_projection.weight"
        peer.save_pretrained(
            source, state_dict={k: v for k, v in state.items() if k != "text_projection.weight"}
        )
    assert main(["convert", str(source), str(target)]) == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith(f"error: '{source}' does not fit a ")
    assert sentence in message
    assert not target.exists()


def test_a_converted_checkpoint_embeds_with_sentence_transformers(checkpoint, tmp_path):
    hf_clip(1, NARROW).save_pretrained(tmp_path / "peer")
    AutoProcessor.from_pretrained(checkpoint).save_pretrained(tmp_path / "peer")
    assert main(["convert", str(tmp_path / "peer"), str(tmp_path / "ours")]) == 0
    encoder = SentenceTransformer(str(tmp_path / "ours"), device="cpu")
    lengths = encoder.encode(["a red square", "a cat"], convert_to_tensor=True).norm(dim=-1)
    torch.testing.assert_close(lengths, torch.ones(2))
