"""The ready-made configurations: each builds, and has as many parameters as published."""

from pathlib import Path

import open_clip
import pytest
import timm
import torch
from transformers import AutoConfig, AutoModel, BertConfig, BertModel

from tests.support import REPOSITORY

FOLDER = REPOSITORY / "configuration" / "model"

#: Parameters as OpenAI, open_clip and Google publish them, and open_clip's name for the same model.
PUBLISHED = {
    "clip-vit-small-patch16": (62_257_537, "ViT-S-16"),
    "clip-vit-base-patch32": (151_277_313, "ViT-B-32"),
    "clip-vit-base-patch16": (149_620_737, "ViT-B-16"),
    "clip-vit-large-patch14": (427_616_513, "ViT-L-14"),
    "clip-vit-large-patch14-336": (427_944_193, "ViT-L-14-336"),
    "clip-vit-huge-patch14": (986_109_441, "ViT-H-14"),
    "siglip-base-patch16-224": (203_155_970, "ViT-B-16-SigLIP"),
    "siglip-large-patch16-256": (652_150_786, "ViT-L-16-SigLIP-256"),
    "siglip-so400m-patch14-224": (877_360_306, "ViT-SO400M-14-SigLIP"),
}
#: Our own, so that a change of them is noticed.
OWN = {
    "cifar10": 5_212_417,
    "digits": 378_977,
    "emoji": 3_212_225,
    "emoji-64px": 4_909_889,
    "modern-small-patch16": 60_878_977,
    "modern-base-patch16": 204_920_065,
    "modern-large-patch16": 475_725_313,
}


def build(name: str):
    config = AutoConfig.from_pretrained(FOLDER / name)
    with torch.device("meta"):
        return AutoModel.from_config(config)


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def test_every_folder_is_listed_here():
    names = {path.name for path in Path(FOLDER).iterdir()}
    assert names == {*PUBLISHED, *OWN, "clip-vit-tiny-patch16", "sketch-bert"}


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_has_the_published_number_of_parameters(name):
    published, peer = PUBLISHED[name]
    assert count(build(name)) == published
    assert count(open_clip.create_model(peer, pretrained=None, device="meta")) == published


@pytest.mark.parametrize("name", OWN)
def test_our_own_keep_their_size(name):
    assert count(build(name)) == OWN[name]


def test_the_smallest_has_the_image_tower_of_vit_tiny():
    """As timm's, but for CLIP's norm of the embeddings and its patches without a bias."""
    tower = build("clip-vit-tiny-patch16").vision_model
    with torch.device("meta"):
        peer = timm.create_model("vit_tiny_patch16_224", num_classes=0)
    assert count(tower) == count(peer) + 2 * 192 - 192


def test_the_sketch_has_a_bert():
    model = build("sketch-bert")
    with torch.device("meta"):
        assert count(model.text_model) == count(BertModel(BertConfig())) == 109_482_240
    assert model.config.vision_config.num_key_value_heads == 1
    assert model.config.vision_config.mlp_type == "glu"
