"""Every conversion takes a checkpoint: a folder, a file in it, or a pickle of tensors alone."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from modeling_clip_vit import ClipVitConfig, ClipVitModel, ClipVitTextModel, ClipVitVisionModel
from modeling_clip_vit.conversion import (
    ConversionError,
    from_hf_chinese_clip,
    from_hf_clip,
    from_hf_siglip,
    from_open_clip,
    from_timm_vit,
)
from tests.support.peers import (
    NARROW,
    TEXT_TOWER,
    WIDE,
    assert_bit_equal,
    hf_chinese_clip,
    hf_clip,
    hf_siglip,
    stir,
)

TRANSFORMERS = {
    "hf_clip": (hf_clip, from_hf_clip),
    "hf_siglip": (hf_siglip, from_hf_siglip),
    "hf_chinese_clip": (hf_chinese_clip, from_hf_chinese_clip),
}


class Command:
    """What a pickle can run when it is loaded."""

    def __reduce__(self):
        return print, ("run",)


def save_tensors(state: dict[str, torch.Tensor], file: Path):
    """Write tensors as safetensors or as a pickle, by the name's ending."""
    save = save_file if file.suffix == ".safetensors" else torch.save
    save(state, file)


#: The file of the weights, and whether the folder is the source, or the file itself.
FORMS = [
    ("model.safetensors", "folder"),
    ("model.safetensors", "file"),
    ("pytorch_model.bin", "folder"),
    ("step_100.safetensors", "file"),
    ("step_200.pt", "file"),
]


@pytest.mark.parametrize(("weights", "source"), FORMS)
@pytest.mark.parametrize("sizes", [NARROW, WIDE], ids=["narrow", "wide"])
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_checkpoint_of_transformers_is_read_in_every_form(tmp_path, name, sizes, weights, source):
    make, from_peer = TRANSFORMERS[name]
    peer = stir(make(2, sizes))
    peer.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    save_tensors(state, tmp_path / weights)
    place = tmp_path if source == "folder" else tmp_path / weights
    assert_bit_equal(from_peer(str(place)), from_peer(peer))


def write_open_clip_config(folder: Path, vision: dict) -> dict:
    """Write a model's configuration as open_clip does; returns the arguments of the model."""
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT_TOWER}
    content = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (folder / "open_clip_config.json").write_text(content)
    return config


def write_hf_config(folder: Path):
    hf_clip(1, NARROW).config.save_pretrained(folder)


def write_timm_config(folder: Path):
    content = json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 0})
    (folder / "config.json").write_text(content)


#: Peer -> what writes its configuration, what reads it, and the file of its weights.
PICKLES = {
    "hf": (write_hf_config, from_hf_clip, "pytorch_model.bin"),
    "open_clip": (
        lambda folder: write_open_clip_config(folder, {"layers": 1, "width": 64}),
        from_open_clip,
        "open_clip_pytorch_model.bin",
    ),
    "timm": (write_timm_config, from_timm_vit, "pytorch_model.bin"),
}


@pytest.mark.parametrize("source", ["folder", "file"])
@pytest.mark.parametrize("peer", PICKLES)
def test_a_pickle_that_holds_more_than_tensors_is_rejected(tmp_path, capsys, peer, source):
    write_config, from_peer, name = PICKLES[peer]
    write_config(tmp_path)
    torch.save({"weight": torch.zeros(1), "more": Command()}, tmp_path / name)
    place = tmp_path if source == "folder" else tmp_path / name
    with pytest.raises(ConversionError, match="more than tensors"):
        from_peer(str(place))
    assert "run" not in capsys.readouterr().out


VISION = {"layers": 1, "width": 64, "image_size": 32, "patch_size": 8}


@pytest.mark.parametrize(
    ("weights", "source"),
    [
        ("open_clip_model.safetensors", "folder"),
        ("open_clip_model.safetensors", "file"),
        ("epoch_1.pt", "file"),
    ],
)
def test_a_checkpoint_of_open_clip_is_read_in_every_form(tmp_path, weights, source):
    peer = stir(open_clip.CLIP(**write_open_clip_config(tmp_path, VISION)))
    save_tensors(peer.state_dict(), tmp_path / weights)
    place = tmp_path if source == "folder" else tmp_path / weights
    assert_bit_equal(from_open_clip(place), from_open_clip(peer))


def test_a_folder_of_open_clip_without_weights_is_rejected(tmp_path):
    write_open_clip_config(tmp_path, VISION)
    with pytest.raises(ConversionError, match="open_clip cannot load"):
        from_open_clip(tmp_path)


def test_a_checkpoint_that_lacks_weights_is_rejected(tmp_path):
    peer = hf_clip(1, NARROW)
    peer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {name: weight for name, weight in load_file(file).items() if "text_proj" not in name}
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"it lacks text_projection\.weight"):
        from_hf_clip(tmp_path)


@pytest.mark.parametrize("model_class", [ClipVitModel, ClipVitVisionModel, ClipVitTextModel])
def test_a_clip_of_transformers_is_not_loaded_as_ours(tmp_path, model_class):
    hf_clip(1, NARROW).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"type 'clip.*modeling_clip_vit.*from_hf_clip"):
        model_class.from_pretrained(tmp_path)


def test_a_siglip_of_transformers_is_not_loaded_as_ours(tmp_path):
    hf_siglip(1, NARROW).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"type 'siglip'.*from_hf_siglip, or clip-vit convert"):
        ClipVitModel.from_pretrained(tmp_path)


def test_a_type_that_nothing_converts_is_not_loaded_as_ours():
    with pytest.raises(ValueError, match=r"type 'vit' is not .*'clip_vit': load it with AutoModel"):
        ClipVitConfig.from_dict({"model_type": "vit"})
