"""Loading in eight bits with torchao, saving that, and loading it again."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig
from transformers import AutoModel, BertConfig, TorchAoConfig

from modeling_clip_vit import (
    ClipVitConfig,
    ClipVitModel,
    ClipVitTextModelWithProjection,
    ClipVitVisionModel,
    ClipVitVisionModelWithProjection,
)
from modeling_clip_vit.pretrained import load_whole
from tests.support.models import TEXT, VISION, make_images, make_texts
from tests.support.processes import run_without_package

pytestmark = pytest.mark.slow

WIDE = {"hidden_size": 64, "intermediate_size": 128}
MODERN = {
    "norm_type": "rmsnorm",
    "mlp_type": "glu",
    "hidden_act": "silu",
    "position_embedding_type": "rope",
    "num_key_value_heads": 2,
}
VARIANTS = {
    "plain": ({}, {}),
    "modern": ({**MODERN, "pooling": "map"}, {**MODERN, "projection_type": "mlp"}),
    "foreign": (
        {"patch_embedding": "linear"},
        BertConfig(**WIDE, num_hidden_layers=2, num_attention_heads=2, vocab_size=300).to_dict(),
    ),
}
METHODS = {
    "weights": Int8WeightOnlyConfig,
    "weights and activations": Int8DynamicActivationInt8WeightConfig,
}


def build(vision: dict, text: dict) -> ClipVitModel:
    torch.manual_seed(0)
    text = text if "model_type" in text else {**TEXT, **WIDE, **text}
    config = ClipVitConfig(
        vision_config={**VISION, **WIDE, **vision}, text_config=text, projection_dim=64
    )
    return ClipVitModel(config).eval()


def example() -> dict[str, torch.Tensor]:
    return {"pixel_values": make_images(4), **make_texts([4, 6, 5, 9])}


def quantised(folder, method) -> ClipVitModel:
    config = TorchAoConfig(METHODS[method]())
    return AutoModel.from_pretrained(folder, quantization_config=config).eval()


@dataclass
class Case:
    """A model, the same in eight bits, and a folder that holds both as `float` and `int8`."""

    model: ClipVitModel
    small: ClipVitModel
    folder: Path


@pytest.fixture(
    scope="module",
    params=[(variant, method) for variant in VARIANTS for method in METHODS],
    ids=lambda param: ", ".join(param),
)
def case(request, tmp_path_factory) -> Case:
    variant, method = request.param
    folder = tmp_path_factory.mktemp("quantised")
    model = build(*VARIANTS[variant])
    model.save_pretrained(folder / "float")
    small = quantised(folder / "float", method)
    small.save_pretrained(folder / "int8")
    return Case(model, small, folder)


@pytest.mark.parametrize(
    "name", ["vision_model.encoder.layers.0.attention.qkv_proj", "visual_projection"]
)
def test_linear_layers_are_held_in_integers(case, name):
    assert case.small.get_submodule(name).weight.qdata.dtype == torch.int8


def test_the_scale_stays_float(case):
    assert case.small.similarity.logit_scale.dtype == torch.float32


@pytest.mark.parametrize("side", ["image_embeds", "text_embeds"])
@torch.no_grad()
def test_a_quantised_model_embeds_nearly_as_the_float_one(case, side):
    embeds, expected = case.small(**example())[side], case.model(**example())[side]
    assert torch.cosine_similarity(embeds, expected).min() > 0.99
    assert not torch.equal(embeds, expected)


def test_a_quantised_model_is_saved_in_fewer_bytes(case):
    sizes = [
        (case.folder / name / "model.safetensors").stat().st_size for name in ("int8", "float")
    ]
    assert sizes[0] < 0.6 * sizes[1]


@torch.no_grad()
def test_a_quantised_model_comes_back_as_it_was_saved(case):
    again = load_whole(AutoModel, case.folder / "int8").eval()
    expected = case.small(**example()).logits_per_image
    assert torch.equal(again(**example()).logits_per_image, expected)


@pytest.mark.parametrize("method", METHODS)
@torch.no_grad()
def test_a_quantised_folder_loads_where_the_package_is_not_installed(tmp_path, monkeypatch, method):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    build({}, {}).save_pretrained(tmp_path / "float")
    small = quantised(tmp_path / "float", method)
    small.save_pretrained(tmp_path / "int8")
    torch.save(example(), tmp_path / "inputs.pt")
    torch.save(small(**example()).logits_per_image, tmp_path / "expected.pt")
    code = """
        import torch
        from transformers import AutoModel
        model = AutoModel.from_pretrained("int8", trust_remote_code=True).eval()
        assert type(model).__module__.startswith("transformers_modules")
        with torch.no_grad():
            logits = model(**torch.load("inputs.pt", weights_only=True)).logits_per_image
        assert torch.equal(logits, torch.load("expected.pt", weights_only=True))
        print("equal")
    """
    assert run_without_package(code, tmp_path).endswith("equal\n")


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> tuple[ClipVitModel, Path]:
    """A model with weights in eight bits, and its folder."""
    folder = tmp_path_factory.mktemp("plain")
    build({}, {}).save_pretrained(folder / "float")
    small = quantised(folder / "float", "weights")
    small.save_pretrained(folder / "int8")
    return small, folder / "int8"


@torch.no_grad()
def test_an_image_tower_with_its_projection_loads_from_a_quantised_folder(plain):
    small, folder = plain
    images = make_images(2)
    tower = ClipVitVisionModelWithProjection.from_pretrained(folder).eval()
    expected = small.get_image_features(images).pooler_output
    assert torch.equal(tower(images).image_embeds, expected)


@torch.no_grad()
def test_a_text_tower_with_its_projection_loads_from_a_quantised_folder(plain):
    small, folder = plain
    texts = make_texts([4, 6])
    tower = ClipVitTextModelWithProjection.from_pretrained(folder).eval()
    expected = small.get_text_features(**texts).pooler_output
    assert torch.equal(tower(**texts).text_embeds, expected)


def test_a_bare_tower_does_not_load_from_a_quantised_folder(plain):
    # Transformers does not find torchao's tensors where it has to take a prefix off their names.
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        ClipVitVisionModel.from_pretrained(plain[1])
