"""timm's classifiers and other image models: logits, class names and prepared images."""

import json

import pytest
import timm
import torch
from timm.data import create_transform, resolve_model_data_config
from timm.models import save_for_hf
from transformers import AutoImageProcessor, AutoModelForImageClassification

from modeling_clip_vit import (
    ClipVitConfig,
    ClipVitForImageClassification,
    ClipVitModel,
    ClipVitVisionConfig,
)
from modeling_clip_vit.cli import main
from modeling_clip_vit.conversion import ConversionError, from_timm, to_timm
from modeling_clip_vit.conversion.pictures import make_pictures, shifted_levels
from tests.support.models import TEXT, make_images
from tests.support.peers import assert_bit_equal, stir
from tests.support.processes import run_without_package

#: Architecture -> arguments that make it small, and what its encoder becomes.
SMALL = {
    "vit_tiny_patch16_224": ({"depth": 1, "embed_dim": 32, "num_heads": 2, "img_size": 32}, False),
    "deit3_small_patch16_224": ({"depth": 1, "embed_dim": 32, "num_heads": 2}, False),
    "beit_base_patch16_224": ({"depth": 1, "embed_dim": 32, "num_heads": 2}, True),
    "beit3_base_patch16_224": ({"depth": 1, "embed_dim": 32, "num_heads": 2}, True),
    "eva02_small_patch14_336": ({"depth": 1, "embed_dim": 64, "num_heads": 2}, True),
    "convnext_atto": ({"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16)}, True),
}


def make(name: str):
    torch.manual_seed(0)
    return stir(timm.create_model(name, **SMALL[name][0]))


def save(peer, name: str, folder):
    """Write a model as timm shares it on the Hub."""
    save_for_hf(peer, str(folder), model_args=SMALL[name][0], safe_serialization=True)


def images_of(peer) -> torch.Tensor:
    size = peer.patch_embed.img_size[0] if hasattr(peer, "patch_embed") else 224
    return make_images(2, size)


@pytest.mark.parametrize("name", SMALL)
def test_a_classifier_computes_the_same_logits(name):
    peer = make(name)
    ours = from_timm(peer, SMALL[name][0])
    expected = peer(images_of(peer))
    assert (ours(images_of(peer)).logits - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", SMALL)
def test_the_encoder_becomes_ours_where_it_can(name):
    ours = from_timm(make(name), SMALL[name][0])
    assert (ours.config.encoder_config is not None) == SMALL[name][1]


@pytest.mark.parametrize("name", SMALL)
def test_a_classifier_goes_there_and_back_bit_equal(name):
    peer = make(name)
    again = to_timm(from_timm(peer, SMALL[name][0]))
    assert_bit_equal(again, peer)
    assert torch.equal(again(images_of(peer)), peer(images_of(peer)))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "beit_base_patch16_224"])
def test_a_folder_of_timm_is_converted_there_and_back(tmp_path, name):
    peer = make(name)
    save(peer, name, tmp_path / "peer")
    places = [str(tmp_path / place) for place in ("peer", "ours", "back")]
    assert main(["convert", *places[:2]]) == 0
    assert main(["convert", *places[1:], "--to", "timm"]) == 0
    ours = AutoModelForImageClassification.from_pretrained(places[1])
    assert ours.config.id2label[0] == "tench, Tinca tinca"
    assert_bit_equal(timm.create_model(f"local-dir:{places[2]}", pretrained=True), peer)


def test_an_image_file_is_prepared_as_timm_does(tmp_path):
    name = "beit_base_patch16_224"
    peer = make(name)
    save(peer, name, tmp_path / "peer")
    assert main(["convert", str(tmp_path / "peer"), str(tmp_path / "ours")]) == 0
    processor = AutoImageProcessor.from_pretrained(tmp_path / "ours")
    transform = create_transform(**resolve_model_data_config(peer))
    for picture in make_pictures(224):
        expected = transform(picture.convert("RGB"))
        assert shifted_levels(expected, processor, picture) <= 3


@pytest.mark.parametrize("crop_mode", ["center", "squash"])
def test_timm_is_given_what_prepares_the_images(tmp_path, crop_mode):
    """The preparation of a model that is not its architecture's."""
    name = "vit_tiny_patch16_224"
    peer = make(name)
    wanted = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6), "crop_mode": crop_mode}
    peer.pretrained_cfg |= {**wanted, "crop_pct": 0.83, "interpolation": "bilinear"}
    peer.pretrained_cfg["input_size"] = (3, 32, 32)
    save(peer, name, tmp_path / "peer")
    assert main(["convert", str(tmp_path / "peer"), str(tmp_path / "ours")]) == 0
    assert main(["convert", str(tmp_path / "ours"), str(tmp_path / "back"), "--to", "timm"]) == 0
    back = timm.create_model(f"local-dir:{tmp_path / 'back'}", pretrained=True)
    transforms = [create_transform(**resolve_model_data_config(model)) for model in (peer, back)]
    for picture in make_pictures(32):
        first, second = (transform(picture.convert("RGB")) for transform in transforms)
        assert torch.equal(first, second)


def test_a_classifier_with_timms_encoder_loads_without_this_package(tmp_path):
    name = "beit_base_patch16_224"
    ours = from_timm(make(name), SMALL[name][0])
    ours.save_pretrained(tmp_path / "model")
    images = make_images(1, 224)
    torch.save(images, tmp_path / "images.pt")
    code = """
        import json, torch
        from transformers import AutoModelForImageClassification
        model = AutoModelForImageClassification.from_pretrained("model", trust_remote_code=True)
        images = torch.load("images.pt", weights_only=True)
        print(json.dumps(model(images).logits.tolist()))
    """
    logits = torch.tensor(json.loads(run_without_package(code, tmp_path).splitlines()[-1]))
    assert torch.allclose(logits, ours(images).logits, atol=1e-6)


def test_class_names_of_the_model_come_first():
    peer = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=2)
    peer.pretrained_cfg["label_names"] = ["cat", "dog"]
    assert from_timm(peer).config.id2label == {0: "cat", 1: "dog"}


def test_classes_without_names_are_numbered():
    peer = timm.create_model("vit_tiny_patch16_224", depth=1, num_classes=3)
    assert from_timm(peer).config.id2label[2] == "LABEL_2"


def test_the_encoder_of_a_classifier_becomes_a_tower(tmp_path):
    name = "beit_base_patch16_224"
    ours = from_timm(make(name), SMALL[name][0])
    ours.save_pretrained(tmp_path)
    model = ClipVitModel.from_vision_text_pretrained(
        str(tmp_path), None, text_fields=None, config=None, projection_dim=16
    )
    pixels = make_images(2, 224)
    expected = model.visual_projection(ours.vision_model(pixels).pooler_output)
    assert torch.equal(model.get_image_features(pixels).pooler_output, expected)


def test_a_distilled_class_head_is_rejected():
    peer = timm.create_model("deit_tiny_distilled_patch16_224", depth=1)
    with pytest.raises(ConversionError, match="a class head tuple is not one linear layer"):
        from_timm(peer)


def test_what_has_no_class_head_and_is_no_plain_vit_stays_a_tower_of_timm():
    peer = timm.create_model("eva02_tiny_patch14_224", depth=1)
    with pytest.raises(ConversionError, match="it is a tower as it is: name it as vision_model"):
        from_timm(peer)


def test_an_encoder_of_another_type_is_no_image_tower_of_ours():
    config = ClipVitVisionConfig(encoder_config={"model_type": "vit"})
    with pytest.raises(ValueError, match="load it with AutoModelForImageClassification"):
        ClipVitModel(ClipVitConfig(vision_config=config, text_config=TEXT))


def test_any_encoder_of_transformers_gets_a_class_head():
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
    backbone = {"model_type": "resnet", **sizes}
    config = ClipVitVisionConfig(encoder_config=backbone, image_size=32, num_labels=5)
    assert ClipVitForImageClassification(config)(make_images(2)).logits.shape == (2, 5)


#: What a folder's config.json says -> the sentence that rejects it.
NO_MODELS = {
    "of type 'owlvit'": {"model_type": "owlvit"},
    "of type 'gpt2'": {"model_type": "gpt2"},
    "of type 'detr'": {"model_type": "detr"},
    "of type None": {"nothing": 1},
}


@pytest.mark.parametrize("sentence", NO_MODELS)
def test_a_model_of_another_kind_is_rejected_and_nothing_written(tmp_path, capsys, sentence):
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "config.json").write_text(json.dumps(NO_MODELS[sentence]))
    assert main(["convert", str(tmp_path / "peer"), str(tmp_path / "ours")]) == 1
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "ours").exists()


def test_an_architecture_that_timm_lacks_is_rejected(tmp_path, capsys):
    (tmp_path / "peer").mkdir()
    (tmp_path / "peer" / "config.json").write_text(json.dumps({"architecture": "no_such_vit"}))
    assert main(["convert", str(tmp_path / "peer"), str(tmp_path / "ours")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: timm cannot load")
    assert not (tmp_path / "ours").exists()


def test_a_vit_of_parallel_blocks_keeps_timms_encoder():
    arguments = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    torch.manual_seed(0)
    peer = stir(timm.create_model("vit_small_patch16_18x2_224", **arguments))
    ours = from_timm(peer, arguments)
    assert ours.vision_model.config.model_type == "timm_wrapper"
    assert torch.allclose(ours(make_images(1, 224)).logits, peer(make_images(1, 224)), atol=1e-5)
