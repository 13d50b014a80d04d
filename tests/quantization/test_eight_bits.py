"""torchao's rounding: fake equals real, what is saved comes back, and which layers are chosen."""

import copy

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModel, BertConfig, GPT2Config, SiglipVisionConfig

from modeling_clip_vit import ClipVitConfig, ClipVitModel
from modeling_clip_vit.pretrained import load_whole
from modeling_clip_vit.quantization.eight_bits import (
    fake_quantize,
    quantize,
    switch_fake,
    without_fakes,
)
from modeling_clip_vit.quantization.layers import QuantizationError, choose_layers
from tests.support.models import make_images, make_texts, small_model
from tests.support.processes import run_without_package

WAYS = [("dynamic", 8), ("dynamic", 4), ("dynamic", 2), ("weight_only", 8), ("weight_only", 3)]
MODELS = {
    "plain": ({}, {}),
    "modern": (
        {"norm_type": "rmsnorm", "mlp_type": "glu", "pooling": "map", "patch_embedding": "linear"},
        {"position_embedding_type": "rope", "projection_type": "mlp"},
    ),
}


def example() -> dict[str, torch.Tensor]:
    return {"pixel_values": make_images(4), **make_texts([4, 6, 5, 9])}


def relative(given: torch.Tensor, expected: torch.Tensor) -> float:
    return ((given - expected).abs().max() / expected.abs().max()).item()


@pytest.mark.parametrize(("mode", "bits"), WAYS)
@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_what_training_rounds_is_what_the_quantised_model_computes(name, mode, bits, tmp_path):
    vision, text = MODELS[name]
    model = small_model(vision, text)
    layers = choose_layers(model, embeddings=True)
    exact, inputs = model(**example()), example()
    rounding = copy.deepcopy(model)
    fake_quantize(rounding, layers, mode, bits)
    assert list(rounding.state_dict()) == list(model.state_dict())
    fake = rounding(**inputs)
    plain = without_fakes(rounding)
    real_model = quantize(plain, layers, mode, bits)
    real = real_model(**inputs)
    for side in ("image_embeds", "text_embeds"):
        # Summed in another order, a number at the edge of two steps may fall on the other one.
        assert torch.cosine_similarity(fake[side], real[side]).min() > 0.99999, side
        if name == "plain":
            assert relative(fake[side], real[side]) <= 1e-5, side
        assert relative(fake[side], exact[side]) > 1e-4, side
        assert torch.equal(plain(**inputs)[side], exact[side])
    compare_layers(rounding, real_model, layers)
    switch_fake(rounding, False)
    assert torch.equal(rounding(**inputs).logits_per_image, exact.logits_per_image)
    real_model.save_pretrained(tmp_path)
    again = load_whole(AutoModel, tmp_path).eval()
    assert torch.equal(again(**inputs).logits_per_image, real.logits_per_image)
    weights = load_file(tmp_path / "model.safetensors")
    stored = weights["text_model.embeddings.token_embedding._weight_qdata"]
    assert stored.dtype == torch.int8
    assert weights["visual_projection.weight"].dtype == torch.float32


def compare_layers(rounding: nn.Module, real_model: nn.Module, layers: list[str]):
    """Each layer alone, on the inputs that it has in the quantised model."""
    seen = {}

    def note(name: str):
        def keep(module, inputs, output):
            seen[name] = inputs, output

        return keep

    for name in layers:
        real_model.get_submodule(name).register_forward_hook(note(name))
    real_model(**example())
    assert set(seen) == set(layers)
    for name, (inputs, output) in seen.items():
        assert relative(rounding.get_submodule(name)(*inputs), output) <= 1e-5, name


def test_gradients_pass_the_rounding():
    model = small_model()
    fake_quantize(model, choose_layers(model), "dynamic")
    model(**example(), return_loss=True).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


@pytest.mark.slow
@torch.no_grad()
def test_a_quantised_folder_loads_in_a_process_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    model = small_model()
    small = quantize(model, choose_layers(model, embeddings=True), "dynamic", 4)
    small.save_pretrained(tmp_path / "int4")
    torch.save(example(), tmp_path / "inputs.pt")
    torch.save(small(**example()).logits_per_image, tmp_path / "expected.pt")
    code = """
        import torch
        from transformers import AutoModel
        model = AutoModel.from_pretrained("int4", trust_remote_code=True).eval()
        with torch.no_grad():
            logits = model(**torch.load("inputs.pt", weights_only=True)).logits_per_image
        print(torch.equal(logits, torch.load("expected.pt", weights_only=True)))
    """
    assert run_without_package(code, tmp_path).endswith("True\n")


def test_patches_and_projections_stay_float_and_so_does_what_a_pattern_names():
    model = small_model({"patch_embedding": "linear"})
    every = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    chosen = set(choose_layers(model))
    assert {name for name in every - chosen if "patch_embedding" not in name} == {
        "visual_projection",
        "text_projection",
    }
    fewer = set(choose_layers(model, ["*.encoder.layers.0.*"]))
    assert every - fewer == {name for name in every if ".layers.0." in name}
    assert set(choose_layers(model, [])) == every


def test_what_cannot_be_quantised_is_named():
    model = small_model()
    with pytest.raises(QuantizationError, match=r"did you mean text_model\.encoder\.layers\.0"):
        choose_layers(model, ["text_model.encoder.layer.0"])
    with pytest.raises(QuantizationError, match="no layer is left"):
        choose_layers(model, ["*"])
    layer = model.vision_model.encoder.layers[1].feed_forward.fc2
    layer.weight.data[0, 0] = torch.inf
    message = r"vision_model.encoder.layers.1.feed_forward.fc2 \(its weight is not finite\)"
    with pytest.raises(QuantizationError, match=message):
        choose_layers(model)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    siglip = SiglipVisionConfig(**small, num_attention_heads=2, image_size=32, patch_size=8)
    bert = BertConfig(**small, num_attention_heads=2, vocab_size=300)
    config = ClipVitConfig(
        vision_config=siglip.to_dict(), text_config=bert.to_dict(), projection_dim=16
    )
    with pytest.raises(QuantizationError, match=r"attention.out_proj \(torch's attention uses"):
        choose_layers(ClipVitModel(config))
    gpt = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=300)
    config = ClipVitConfig(text_config=gpt.to_dict(), projection_dim=16)
    with pytest.raises(QuantizationError, match=r"c_attn \(a Conv1D\)"):
        choose_layers(ClipVitModel(config), ["vision_model.*"])
