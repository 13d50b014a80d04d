"""Loading in eight bits with torchao, saving that, and loading it again."""

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
    how = TorchAoConfig(METHODS[method]())
    return AutoModel.from_pretrained(folder, quantization_config=how).eval()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_a_quantised_model_embeds_alike_and_comes_back_the_same(tmp_path, variant, method):
    model = build(*VARIANTS[variant])
    model.save_pretrained(tmp_path / "float")
    small = quantised(tmp_path / "float", method)
    for name in ("vision_model.encoder.layers.0.attention.qkv_proj", "visual_projection"):
        assert small.get_submodule(name).weight.qdata.dtype == torch.int8
    assert small.similarity.logit_scale.dtype == torch.float32
    outputs, expected = small(**example()), model(**example())
    for name in ("image_embeds", "text_embeds"):
        assert torch.cosine_similarity(outputs[name], expected[name]).min() > 0.99
        assert not torch.equal(outputs[name], expected[name])
    small.save_pretrained(tmp_path / "int8")
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("int8", "float")]
    assert sizes[0] < 0.6 * sizes[1]
    again = load_whole(AutoModel, tmp_path / "int8").eval()
    assert torch.equal(again(**example()).logits_per_image, outputs.logits_per_image)


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


@torch.no_grad()
def test_towers_of_a_quantised_folder_are_quantised_or_refused(tmp_path):
    build({}, {}).save_pretrained(tmp_path / "float")
    small = quantised(tmp_path / "float", "weights")
    small.save_pretrained(tmp_path / "int8")
    images, texts = make_images(2), make_texts([4, 6])
    vision = ClipVitVisionModelWithProjection.from_pretrained(tmp_path / "int8").eval()
    expected = small.get_image_features(images).pooler_output
    assert torch.equal(vision(images).image_embeds, expected)
    text = ClipVitTextModelWithProjection.from_pretrained(tmp_path / "int8").eval()
    expected = small.get_text_features(**texts).pooler_output
    assert torch.equal(text(**texts).text_embeds, expected)
    # Transformers does not find torchao's tensors where it has to take a prefix off their names.
    with pytest.raises(RuntimeError, match="conversion of the weights"):
        ClipVitVisionModel.from_pretrained(tmp_path / "int8")
