"""Models for images in their own aspect ratio, on their way from and to Transformers."""

import pytest
import torch
from transformers import AutoModel, AutoProcessor

from modeling_clip_vit.cli import main
from modeling_clip_vit.export.parts import make_images, shapes_of
from modeling_clip_vit.inference.loading import load_clip
from tests.support.peers import stir
from tests.support.transformers_peers import MODELS, make_processor


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A SigLIP 2 of Transformers as one of ours, and the original beside it."""
    folder = tmp_path_factory.mktemp("siglip2")
    torch.manual_seed(0)
    stir(MODELS["hf_siglip2"]()).save_pretrained(folder / "peer")
    make_processor("hf_siglip2").save_pretrained(folder / "peer")
    assert main(["convert", str(folder / "peer"), str(folder / "ours")]) == 0
    return folder


def test_a_siglip_2_keeps_its_preparation_there_and_back(converted, tmp_path):
    command = ["convert", str(converted / "ours"), str(tmp_path / "back"), "--to", "hf_siglip2"]
    assert main(command) == 0
    for folder in (converted / "ours", tmp_path / "back"):
        images = AutoProcessor.from_pretrained(folder).image_processor
        assert (images.patch_size, images.max_num_patches) == (16, 16)
    inputs = make_images(shapes_of(*load_clip(str(converted / "ours"))), 4)
    with torch.no_grad():
        embeds = [
            AutoModel.from_pretrained(folder).get_image_features(**inputs).pooler_output
            for folder in (converted / "peer", tmp_path / "back")
        ]
    torch.testing.assert_close(*embeds, atol=1e-5, rtol=1e-5)


def test_processors_of_squares_are_rejected(converted, tmp_path, capsys):
    command = ["convert", str(converted / "ours"), str(tmp_path / "x"), "--to", "hf_siglip"]
    assert main(command) == 1
    assert "convert it to hf_siglip2" in capsys.readouterr().err


def test_a_checkpoint_trained_on_patches_is_not_converted_for_squares(
    native_checkpoint, tmp_path, capsys
):
    command = ["convert", str(native_checkpoint), str(tmp_path / "x"), "--to", "open_clip"]
    assert main(command) == 1
    assert "aspect ratio" in capsys.readouterr().err
