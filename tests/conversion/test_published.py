"""Models of other implementations, given to a command by their names."""

import json
import os
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.models import save_for_hf
from torchvision.transforms.functional import to_pil_image
from transformers import AutoConfig, AutoImageProcessor, AutoModel

from modeling_clip_vit.conversion.published import cache_folder, local_checkpoint, local_tower
from modeling_clip_vit.inference.loading import load_encoder
from modeling_clip_vit.utils.errors import UserError
from tests.support.hub import COMMIT, fill_hub_cache
from tests.support.peers import (
    NARROW,
    hf_clip,
    save_hf_clip,
    save_hf_siglip,
    save_open_clip,
    save_open_clip_siglip,
    save_timm,
)
from tests.support.pictures import COLORS

#: Transformers' models -> what saves a small one.
PEERS = {"hf_clip": save_hf_clip, "hf_siglip": save_hf_siglip}


@pytest.fixture(params=PEERS)
def published(request, tmp_path) -> Path:
    """A folder as a peer shares it, with processor."""
    PEERS[request.param](tmp_path / "published")
    return tmp_path / "published"


@pytest.fixture
def clip(tmp_path) -> Path:
    save_hf_clip(tmp_path / "clip")
    return tmp_path / "clip"


def test_it_embeds_texts_as_the_peer_does(published):
    texts = [f"a {name} square" for name in COLORS]
    ours, theirs = (
        load_encoder(path).encode_text(texts)
        for path in (local_checkpoint(str(published)), str(published))
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_it_is_converted_once_and_a_line_says_so(clip, capsys):
    first = local_checkpoint(str(clip))
    assert capsys.readouterr().err.count("(hf_clip) was converted; largest differences: ") == 1
    assert local_checkpoint(str(clip)) == first
    assert capsys.readouterr().err == ""


def test_later_the_weights_of_the_source_are_not_read(clip):
    converted = local_checkpoint(str(clip))
    weights = clip / "model.safetensors"
    stat = weights.stat()
    weights.write_bytes(b"\0" * stat.st_size)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert local_checkpoint(str(clip)) == converted


def test_other_weights_are_converted_again(clip):
    first = local_checkpoint(str(clip))
    torch.manual_seed(5)
    hf_clip(2, NARROW).save_pretrained(clip)
    second = local_checkpoint(str(clip))
    states = [load_file(f"{path}/model.safetensors") for path in (first, second)]
    name = "visual_projection.weight"
    assert not torch.equal(states[0][name], states[1][name])


def test_a_damaged_copy_is_made_anew(clip, capsys):
    weights = Path(local_checkpoint(str(clip))) / "model.safetensors"
    before = weights.read_bytes()
    weights.write_bytes(before[:1000])
    assert local_checkpoint(str(clip)) == str(weights.parent)
    assert f"{weights.parent} is damaged: {clip} is converted again" in capsys.readouterr().err
    assert weights.read_bytes() == before


def test_a_failure_leaves_nothing_in_the_cache(clip):
    (clip / "model.safetensors").write_bytes(b"broken")
    before = sorted(cache_folder().glob("clip-*"))
    with pytest.raises(UserError, match="cannot load the checkpoint"):
        local_checkpoint(str(clip))
    assert sorted(cache_folder().glob("clip-*")) == before


def test_own_checkpoints_stay_where_they_are(checkpoint):
    assert local_checkpoint(str(checkpoint)) == str(checkpoint)
    assert local_checkpoint(f"local-dir:{checkpoint}") == str(checkpoint)


def test_what_no_peer_knows_is_left_to_those_that_load_it(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "detr"}')
    assert local_checkpoint(str(tmp_path)) == str(tmp_path)


def test_an_encoder_of_transformers_is_a_tower_as_it_is(clip):
    assert local_tower(str(clip)) == str(clip)


def test_a_repository_is_found_in_the_cache_of_the_hub_by_its_commit(clip, offline):
    fill_hub_cache(offline, "user/clip", clip)
    converted = local_checkpoint("user/clip")
    assert converted == local_checkpoint("hf-hub:user/clip")
    record = json.loads((Path(converted) / "conversion.json").read_text())
    assert record["identity"] == {"repository": "user/clip", "commit": COMMIT}


def test_a_folder_of_nearly_that_name_is_suggested(offline, tmp_path, monkeypatch):
    (tmp_path / "outputs" / "emoji").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"did you mean 'outputs/emoji'\?\), and the Hub cannot be"):
        local_checkpoint("outputs/emoij")


def test_a_repository_that_cannot_be_reached_is_one_sentence(offline):
    with pytest.raises(UserError, match="cannot load 'user/none': there is no folder of that name"):
        local_checkpoint("user/none")


@pytest.fixture
def picture(tmp_path) -> Path:
    """A photo-like picture that is not square."""
    pixels = torch.rand(3, 6, 8, generator=torch.Generator().manual_seed(0))
    image = to_pil_image(pixels).resize((120, 90), Image.Resampling.BICUBIC)
    image.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


@pytest.mark.parametrize("save", [save_open_clip, save_open_clip_siglip])
def test_a_model_of_open_clip_reads_files_and_texts_as_open_clip_does(tmp_path, picture, save):
    save(tmp_path / "peer")
    name = f"local-dir:{tmp_path / 'peer'}"
    peer, preprocess = open_clip.create_model_from_pretrained(name)
    texts = ["a red square", "Hey, it's 2 o'clock!", "方块", "long " * 50]
    image = Image.open(picture)
    with torch.no_grad():
        images = peer.eval().encode_image(preprocess(image)[None], normalize=True)
        words = peer.encode_text(open_clip.get_tokenizer(name)(texts), normalize=True)
    encoder = load_encoder(local_checkpoint(name))
    torch.testing.assert_close(encoder.encode_text(texts), words, rtol=0, atol=1e-5)
    # Pixels are rounded in another place of the two pipelines.
    torch.testing.assert_close(encoder.encode_image([image]), images, rtol=0, atol=2e-3)


def test_a_model_of_timm_reads_files_as_timm_does(tmp_path, picture):
    save_timm(tmp_path / "peer")
    peer = timm.create_model(f"local-dir:{tmp_path / 'peer'}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(peer))
    folder = local_checkpoint(str(tmp_path / "peer"), needs_texts=False)
    image = Image.open(picture)
    model, processor = AutoModel.from_pretrained(folder), AutoImageProcessor.from_pretrained(folder)
    with torch.no_grad():
        ours = model(**processor(image, return_tensors="pt")).pooler_output
        theirs = peer(transform(image)[None])
    assert (ours - theirs).abs().max() <= 1e-2 * theirs.abs().max()


def test_a_tower_alone_is_not_enough_for_texts(tmp_path):
    save_timm(tmp_path / "peer")
    with pytest.raises(UserError, match=r"is an image tower alone \(timm\)"):
        local_checkpoint(str(tmp_path / "peer"))


def test_a_model_without_a_processor_is_rejected(tmp_path):
    hf_clip(1, NARROW).save_pretrained(tmp_path / "peer")
    with pytest.raises(UserError, match="comes without a tokenizer and an image processor"):
        local_checkpoint(str(tmp_path / "peer"))


def test_a_vit_of_timm_becomes_a_tower_of_ours(tmp_path):
    save_timm(tmp_path / "peer")
    config = AutoConfig.from_pretrained(local_tower(str(tmp_path / "peer")))
    assert config.model_type == "clip_vit_vision_model"


def test_another_model_of_timm_stays_one(tmp_path, capsys):
    model = timm.create_model("convnext_atto", num_classes=0, depths=[1] * 4, dims=[8] * 4)
    save_for_hf(model, str(tmp_path / "peer"), safe_serialization=True)
    assert local_tower(str(tmp_path / "peer")) == str(tmp_path / "peer")
    assert "stays a model of timm: a ConvNeXt" in capsys.readouterr().err


def test_a_damaged_configuration_is_one_sentence(tmp_path):
    save_open_clip(tmp_path / "peer")
    (tmp_path / "peer" / "open_clip_config.json").write_text("{")
    with pytest.raises(UserError, match="cannot load the checkpoint"):
        local_checkpoint(str(tmp_path / "peer"))
