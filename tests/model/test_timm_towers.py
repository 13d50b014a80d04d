"""Models of timm as image towers, through Transformers' `TimmWrapperModel`."""

import json

import pytest
import timm
import torch
from torch.testing import assert_close
from transformers import AutoModel, BertConfig, TimmWrapperConfig, TimmWrapperModel

from modeling_clip_vit import ClipVitConfig, ClipVitModel
from tests.support.models import TEXT, make_images, make_texts
from tests.support.peers import stir
from tests.support.processes import run_without_package

#: Architecture -> arguments that make it small.
ARCHITECTURES = {
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
    "eva02_tiny_patch14_224": {"depth": 1, "img_size": 28},
    "mobilenetv3_small_050": {},
    "swin_tiny_patch4_window7_224": {"depths": [1, 1, 1, 1], "embed_dim": 24, "img_size": 56},
    "vit_pe_core_tiny_patch16_384": {"depth": 1, "img_size": 32},
}


def build(architecture: str, **fields) -> ClipVitModel:
    torch.manual_seed(0)
    vision = {
        "model_type": "timm_wrapper",
        "architecture": architecture,
        "model_args": ARCHITECTURES[architecture],
        **fields,
    }
    config = ClipVitConfig(vision_config=vision, text_config=TEXT, projection_dim=16)
    return stir(ClipVitModel(config))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_of_timm_embeds_images_as_timm_does(architecture):
    model = build(architecture)
    peer = timm.create_model(architecture, num_classes=0, **ARCHITECTURES[architecture]).eval()
    peer.load_state_dict(model.vision_model.timm_model.state_dict())
    images = make_images(2, model.config.vision_config.image_size)
    expected = model.visual_projection(peer(images))
    assert torch.equal(model.get_image_features(images).pooler_output, expected)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_model_of_timm_survives_saving(tmp_path, architecture):
    model = build(architecture)
    model.save_pretrained(tmp_path)
    again = AutoModel.from_pretrained(tmp_path)
    inputs = {
        "pixel_values": make_images(2, model.config.vision_config.image_size),
        **make_texts([4, 5]),
    }
    expected = model(**inputs).image_embeds
    assert_close(again(**inputs).image_embeds, expected, atol=1e-6, rtol=0)


@pytest.mark.slow
def test_a_model_of_timm_loads_without_this_package(tmp_path):
    model = build("eva02_tiny_patch14_224")
    model.save_pretrained(tmp_path / "model")
    images = make_images(2, 28)
    torch.save(images, tmp_path / "images.pt")
    code = """
        import json, torch
        from transformers import AutoModel
        model = AutoModel.from_pretrained("model", trust_remote_code=True)
        images = torch.load("images.pt", weights_only=True)
        print(json.dumps(model.get_image_features(images).pooler_output.tolist()))
    """
    embeds = torch.tensor(json.loads(run_without_package(code, tmp_path).splitlines()[-1]))
    assert torch.equal(embeds, model.get_image_features(images).pooler_output)


@pytest.mark.parametrize(
    ("architecture", "size"),
    [("convnext_atto", 224), ("vit_pe_core_tiny_patch16_384", 32)],
    ids=["of the architecture", "of the arguments"],
)
def test_the_configuration_learns_the_size_of_images(tmp_path, architecture, size):
    build(architecture).save_pretrained(tmp_path)
    vision = ClipVitConfig.from_pretrained(tmp_path).vision_config
    assert (vision.image_size, vision.num_channels) == (size, 3)


def test_a_size_of_images_that_is_configured_stays():
    assert build("convnext_atto", image_size=64).config.vision_config.image_size == 64


def test_a_pretrained_model_of_timm_becomes_a_tower(tmp_path):
    torch.manual_seed(1)
    arguments = ARCHITECTURES["convnext_atto"]
    config = TimmWrapperConfig(architecture="convnext_atto", model_args=arguments)
    tower = TimmWrapperModel(config).eval()
    tower.save_pretrained(tmp_path)
    text = BertConfig(
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        vocab_size=300,
    )
    model = ClipVitModel.from_vision_text_pretrained(
        str(tmp_path), None, config=ClipVitConfig(text_config=text), projection_dim=16
    )
    images = make_images(2, model.config.vision_config.image_size)
    pooled = tower(images).pooler_output
    expected = model.visual_projection(pooled)
    assert torch.equal(model.get_image_features(images).pooler_output, expected)


def test_the_pooling_of_a_model_of_timm_is_an_argument_of_timm():
    with pytest.raises(ValueError, match=r"pooling='mean' is not allowed .* set global_pool"):
        build("convnext_atto", pooling="mean")
