"""torchao's rounding: fake equals real, what is saved comes back, and which layers are chosen."""

import copy
from dataclasses import dataclass

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
from modeling_clip_vit.quantization.options import DEFAULT_SKIP
from tests.support.models import make_images, make_texts, small_model
from tests.support.processes import run_without_package

WAYS = [("dynamic", 8), ("dynamic", 4), ("dynamic", 2), ("weight_only", 8), ("weight_only", 3)]
MODELS = {
    "plain": ({}, {}),
    "modern": (
        {
            "norm_type": "rmsnorm",
            "mlp_type": "glu",
            "pooling": "map",
            "patch_embedding": "linear",
            "attention_gate": "headwise",
            "value_residual": True,
        },
        {
            "position_embedding_type": "rope",
            "projection_type": "mlp",
            "attention_gate": "elementwise",
        },
    ),
}


def example() -> dict[str, torch.Tensor]:
    return {"pixel_values": make_images(4), **make_texts([4, 6, 5, 9])}


def relative(values: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference, of the largest value."""
    return ((values - expected).abs().max() / expected.abs().max()).item()


@dataclass
class Case:
    """A model in float, as training rounds it, and as it is quantised."""

    name: str
    layers: list[str]
    exact: ClipVitModel
    fake: ClipVitModel
    real: ClipVitModel


@pytest.fixture(
    scope="module",
    params=[(name, *way) for name in MODELS for way in WAYS],
    ids=lambda param: "-".join(map(str, param)),
)
def case(request) -> Case:
    name, mode, bits = request.param
    model = small_model(*MODELS[name])
    layers = choose_layers(model, embeddings=True)
    rounding = copy.deepcopy(model)
    fake_quantize(rounding, layers, mode, bits)
    return Case(name, layers, model, rounding, quantize(model, layers, mode, bits))


def test_rounding_in_training_changes_no_name(case):
    assert list(case.fake.state_dict()) == list(case.exact.state_dict())


@pytest.mark.parametrize("side", ["image_embeds", "text_embeds"])
@torch.no_grad()
def test_what_training_rounds_is_what_the_quantised_model_computes(case, side):
    fake, real = case.fake(**example())[side], case.real(**example())[side]
    # Summed in another order, a number at the edge of two steps may fall on the other one.
    assert torch.cosine_similarity(fake, real).min() > 0.99999
    if case.name == "plain":
        assert relative(fake, real) <= 1e-5


@pytest.mark.parametrize("side", ["image_embeds", "text_embeds"])
@torch.no_grad()
def test_rounding_in_training_changes_what_is_computed(case, side):
    assert relative(case.fake(**example())[side], case.exact(**example())[side]) > 1e-4


@torch.no_grad()
def test_a_model_without_its_rounding_is_the_float_one(case):
    plain = without_fakes(case.fake)
    expected = case.exact(**example()).logits_per_image
    assert torch.equal(plain(**example()).logits_per_image, expected)


@torch.no_grad()
def test_rounding_in_training_can_be_turned_off(case):
    rounding = copy.deepcopy(case.fake)
    switch_fake(rounding, False)
    expected = case.exact(**example()).logits_per_image
    assert torch.equal(rounding(**example()).logits_per_image, expected)


@torch.no_grad()
def test_a_quantised_model_comes_back_as_it_was_saved(case, tmp_path):
    case.real.save_pretrained(tmp_path)
    again = load_whole(AutoModel, tmp_path).eval()
    expected = case.real(**example()).logits_per_image
    assert torch.equal(again(**example()).logits_per_image, expected)


def test_a_quantised_model_is_saved_in_integers(case, tmp_path):
    case.real.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    stored = weights["text_model.embeddings.token_embedding._weight_qdata"]
    assert stored.dtype == torch.int8
    assert weights["visual_projection.weight"].dtype == torch.float32


@torch.no_grad()
def test_each_layer_alone_rounds_as_the_quantised_one(case):
    """On the inputs that the layer has in the quantised model."""
    seen = {}

    def note(name: str):
        def keep(module, inputs, output):
            seen[name] = inputs, output

        return keep

    hooks = [
        case.real.get_submodule(name).register_forward_hook(note(name)) for name in case.layers
    ]
    case.real(**example())
    for hook in hooks:
        hook.remove()
    assert set(seen) == set(case.layers)
    for name, (inputs, output) in seen.items():
        assert relative(case.fake.get_submodule(name)(*inputs), output) <= 1e-5, name


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


def kept_float(skip: list[str] | None) -> set[str]:
    """The linear layers that are not chosen; None skips what is skipped by default."""
    model = small_model({"patch_embedding": "linear"})
    every = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    return every - set(choose_layers(model) if skip is None else choose_layers(model, skip))


def test_patches_and_projections_stay_float():
    names = kept_float(None)
    patches = {name for name in names if "patch_embedding" in name}
    assert patches
    assert names - patches == {"visual_projection", "text_projection"}


def test_what_a_pattern_names_stays_float():
    names = kept_float(["*.encoder.layers.0.*"])
    assert len(names) == 8  # four in each tower's first block
    assert all(".encoder.layers.0." in name for name in names)


def test_without_a_pattern_no_layer_stays_float():
    assert not kept_float([])


def with_an_infinite_weight() -> ClipVitModel:
    model = small_model()
    model.vision_model.encoder.layers[1].feed_forward.fc2.weight.data[0, 0] = torch.inf
    return model


def with_towers_of_transformers() -> ClipVitModel:
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    siglip = SiglipVisionConfig(**small, num_attention_heads=2, image_size=32, patch_size=8)
    bert = BertConfig(**small, num_attention_heads=2, vocab_size=300)
    towers = {"vision_config": siglip.to_dict(), "text_config": bert.to_dict()}
    return ClipVitModel(ClipVitConfig(**towers, projection_dim=16))


def with_gpt() -> ClipVitModel:
    gpt = GPT2Config(n_embd=32, n_layer=1, n_head=2, vocab_size=300)
    return ClipVitModel(ClipVitConfig(text_config=gpt.to_dict(), projection_dim=16))


#: What the error says -> the model, and the layers to skip.
REJECTED = {
    r"did you mean text_model\.encoder\.layers\.0": (
        small_model,
        ["text_model.encoder.layer.0"],
    ),
    "no layer is left": (small_model, ["*"]),
    r"vision_model.encoder.layers.1.feed_forward.fc2 \(its weight is not finite\)": (
        with_an_infinite_weight,
        DEFAULT_SKIP,
    ),
    r"attention.out_proj \(torch's attention uses": (with_towers_of_transformers, DEFAULT_SKIP),
    r"c_attn \(a Conv1D\)": (with_gpt, ["vision_model.*"]),
}


@pytest.mark.parametrize("sentence", REJECTED)
def test_what_cannot_be_quantised_is_named(sentence):
    make, skip = REJECTED[sentence]
    with pytest.raises(QuantizationError, match=sentence):
        choose_layers(make(), skip)
