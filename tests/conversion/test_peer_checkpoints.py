"""Every conversion takes a checkpoint: a folder, a file in it, or a pickle of tensors alone."""

import json

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


@pytest.mark.parametrize("name", TRANSFORMERS)
@pytest.mark.parametrize("sizes", [NARROW, WIDE])
def test_checkpoints_of_transformers_are_read_in_every_form(tmp_path, name, sizes):
    make, from_peer = TRANSFORMERS[name]
    peer = stir(make(2, sizes))
    peer.save_pretrained(tmp_path)
    ours = from_peer(peer)
    weights = tmp_path / "model.safetensors"
    state = load_file(weights)
    save_file(state, tmp_path / "step_100.safetensors")
    torch.save(state, tmp_path / "step_200.pt")
    for source in (tmp_path, str(weights), tmp_path / "step_100.safetensors"):
        assert_bit_equal(from_peer(source), ours)
    assert_bit_equal(from_peer(str(tmp_path / "step_200.pt")), ours)
    weights.unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    assert_bit_equal(from_peer(str(tmp_path)), ours)


def test_a_pickle_that_holds_more_than_tensors_is_refused(tmp_path, capsys):
    hf_clip(1, NARROW).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf" / "model.safetensors").unlink()
    config = {"embed_dim": 24, "vision_cfg": {"layers": 1, "width": 64}, "text_cfg": TEXT_TOWER}
    (tmp_path / "open").mkdir()
    content = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (tmp_path / "open" / "open_clip_config.json").write_text(content)
    (tmp_path / "timm").mkdir()
    content = json.dumps({"architecture": "vit_tiny_patch16_224", "num_classes": 0})
    (tmp_path / "timm" / "config.json").write_text(content)
    sources = {
        "hf/pytorch_model.bin": from_hf_clip,
        "open/open_clip_pytorch_model.bin": from_open_clip,
        "timm/pytorch_model.bin": from_timm_vit,
    }
    for place, from_peer in sources.items():
        file = tmp_path / place
        torch.save({"weight": torch.zeros(1), "more": Command()}, file)
        for source in (file, str(file.parent)):
            with pytest.raises(ConversionError, match="more than tensors"):
                from_peer(source)
    assert "run" not in capsys.readouterr().out


def test_open_clip_takes_a_file_of_weights(tmp_path):
    vision = {"layers": 1, "width": 64, "image_size": 32, "patch_size": 8}
    config = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": TEXT_TOWER}
    peer = stir(open_clip.CLIP(**config))
    content = json.dumps({"model_cfg": config, "preprocess_cfg": {}})
    (tmp_path / "open_clip_config.json").write_text(content)
    save_file(peer.state_dict(), tmp_path / "open_clip_model.safetensors")
    torch.save(peer.state_dict(), tmp_path / "epoch_1.pt")
    ours = from_open_clip(peer)
    for name in ("", "open_clip_model.safetensors", "epoch_1.pt"):
        assert_bit_equal(from_open_clip(tmp_path / name), ours)
    for name in ("open_clip_model.safetensors", "epoch_1.pt"):
        (tmp_path / name).unlink()
    with pytest.raises(ConversionError, match="open_clip cannot load"):
        from_open_clip(tmp_path)


def test_a_checkpoint_that_lacks_weights_is_refused(tmp_path):
    peer = hf_clip(1, NARROW)
    peer.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    state = {name: weight for name, weight in load_file(file).items() if "text_proj" not in name}
    save_file(state, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"it lacks text_projection\.weight"):
        from_hf_clip(tmp_path)


def test_a_checkpoint_of_another_type_is_not_loaded_as_ours(tmp_path):
    hf_clip(1, NARROW).save_pretrained(tmp_path / "clip")
    hf_siglip(1, NARROW).save_pretrained(tmp_path / "siglip")
    for kind in (ClipVitModel, ClipVitVisionModel, ClipVitTextModel):
        with pytest.raises(ValueError, match=r"type 'clip.*modeling_clip_vit.*from_hf_clip"):
            kind.from_pretrained(tmp_path / "clip")
    with pytest.raises(ValueError, match=r"type 'siglip'.*from_hf_siglip, or clip-vit convert"):
        ClipVitModel.from_pretrained(tmp_path / "siglip")
    with pytest.raises(ValueError, match=r"type 'vit' is not .*'clip_vit': load it with AutoModel"):
        ClipVitConfig.from_dict({"model_type": "vit"})
