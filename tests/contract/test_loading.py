"""Loading as any model of Transformers is loaded: where to, how precise, from which files."""

import json

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, BertConfig
from transformers.testing_utils import CaptureLogger
from transformers.utils import logging

from modeling_clip_vit import (
    ClipVitConfig,
    ClipVitForImageClassification,
    ClipVitModel,
    ClipVitTextModel,
    ClipVitTextModelWithProjection,
    ClipVitVisionModel,
    ClipVitVisionModelWithProjection,
)
from tests.support.models import VISION, make_images, make_texts, small_config, small_model

PARTS = ("vision_model", "text_model", "visual_projection", "text_projection", "similarity")
BERT = BertConfig(
    hidden_size=24,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    vocab_size=300,
    max_position_embeddings=32,
    pad_token_id=0,
).to_dict()
#: Fields of the towers which together have every parameter that is not in a sub-module.
VARIANTS = {
    "plain": ({}, {}),
    "registers, scales, one bias": (
        {"num_register_tokens": 2, "layer_scale_init_value": 0.1, "norm_type": "dyt"},
        {"attention_k_bias": False, "embedding_norm": True},
    ),
    "running statistics": (
        {"patch_embedding": "conv_stem", "norm_type": "batchnorm", "pooling": "flatten"},
        {"pooling": "mean"},
    ),
    "attention pooling": ({"pooling": "map", "patch_embedding": "linear"}, {"pooling": "map"}),
    "bert": ({}, BERT),
}
PLACEMENTS = {
    "auto": {"device_map": "auto"},
    "auto, state offloaded": {"device_map": "auto", "offload_state_dict": True},
    "auto, little memory": {"device_map": "auto", "max_memory": {"cpu": 20_000}},
    "text on disk": {"device_map": dict.fromkeys(PARTS, "cpu") | {"text_model": "disk"}},
    "images in memory": {"device_map": dict.fromkeys(PARTS, "disk") | {"vision_model": "cpu"}},
    "all on disk": {"device_map": {"": "disk"}},
}


def build(vision: dict, text: dict) -> ClipVitModel:
    if "model_type" not in text:
        return small_model(vision, text, logit_bias_init_value=-1.0)
    torch.manual_seed(0)
    config = ClipVitConfig(vision_config={**VISION, **vision}, text_config=text, projection_dim=16)
    return ClipVitModel(config).eval()


def example() -> dict[str, torch.Tensor]:
    return {"pixel_values": make_images(2), **make_texts([4, 6])}


def save(model, folder):
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_where_the_weights_lie_changes_nothing(tmp_path, variant, placement):
    model = build(*VARIANTS[variant])
    folder = save(model, tmp_path / "saved")
    options = {**PLACEMENTS[placement], "offload_folder": tmp_path / "offload"}
    loaded = AutoModel.from_pretrained(folder, **options).eval()
    is_offloaded = any(weight.is_meta for weight in loaded.parameters())
    assert is_offloaded == ("disk" in placement or "memory" in placement)
    outputs, expected = loaded(**example()), model(**example())
    for name in ("logits_per_image", "image_embeds", "text_embeds"):
        # Fused attention over one query gives other last digits by where its inputs lie.
        assert_close(outputs[name], expected[name], atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_an_offloaded_tower_takes_images_of_any_shape(tmp_path):
    model = small_model().vision_model
    folder = save(model, tmp_path / "saved")
    loaded = ClipVitVisionModel.from_pretrained(folder, device_map={"": "disk"}).eval()
    larger = {"pixel_values": make_images(2, size=48), "interpolate_pos_encoding": True}
    patches = {
        "pixel_values": torch.randn(2, 6, 192),
        "pixel_attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
        "spatial_shapes": torch.tensor([[2, 3], [1, 4]]),
    }
    for inputs in (larger, patches):
        assert torch.equal(loaded(**inputs).pooler_output, model(**inputs).pooler_output)


@pytest.mark.parametrize("variant", ["plain", "bert"])
@torch.no_grad()
def test_the_precision_is_chosen_at_loading(tmp_path, variant):
    model = build(*VARIANTS[variant])
    folder = save(model, tmp_path / "float32")
    half = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    outputs, expected = half(**example()), model(**example())
    for name in ("image_embeds", "text_embeds"):
        assert outputs[name].dtype == torch.bfloat16
        cosines = torch.cosine_similarity(outputs[name].float(), expected[name])
        assert cosines.min() > 0.999
    save(half, tmp_path / "bfloat16")
    for dtype, kept in {"auto": torch.bfloat16, "float32": torch.float32}.items():
        again = AutoModel.from_pretrained(tmp_path / "bfloat16", dtype=dtype)
        assert {weight.dtype for weight in again.parameters()} == {kept}


def kernels(model: ClipVitModel) -> tuple[str, str]:
    """What each tower attends with."""
    towers = model.vision_model, model.text_model
    return tuple(tower.config._attn_implementation for tower in towers)


@pytest.mark.parametrize("variant", ["plain", "bert"])
@torch.no_grad()
def test_the_kernel_is_chosen_at_loading_and_after(tmp_path, variant):
    model = build(*VARIANTS[variant])
    folder = save(model, tmp_path)
    expected = model(**example()).logits_per_image
    per_tower = {"vision_config": "eager", "text_config": "sdpa"}
    for chosen in ("eager", "sdpa", per_tower):
        wanted = tuple(chosen.values()) if isinstance(chosen, dict) else (chosen, chosen)
        loaded = AutoModel.from_pretrained(folder, attn_implementation=chosen).eval()
        changed = AutoModel.from_pretrained(folder).eval()
        changed.set_attn_implementation(chosen)
        for other in (loaded, changed):
            assert kernels(other) == wanted
            assert_close(other(**example()).logits_per_image, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", ["plain", "bert"])
@torch.no_grad()
def test_attentions_and_hidden_states_come_from_both_towers(tmp_path, variant):
    folder = save(build(*VARIANTS[variant]), tmp_path)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    asked = {"output_attentions": True, "output_hidden_states": True}
    outputs = model(**example(), **asked)
    towers = {
        "vision": (outputs.vision_model_output, (2, 4, 17, 17)),
        "text": (outputs.text_model_output, (2, 2, 6, 6)),
    }
    for tower, (output, shape) in towers.items():
        assert [weights.shape for weights in output.attentions] == [shape, shape], tower
        for weights in output.attentions:
            assert_close(weights.sum(dim=-1), torch.ones(shape[:-1]))
        assert [states.shape for states in output.hidden_states] == [
            output.last_hidden_state.shape
        ] * 3
        assert (output.hidden_states[0] - output.hidden_states[1]).abs().max() > 1e-3
    silent = model(**example())
    assert silent.vision_model_output.attentions is None
    assert silent.text_model_output.hidden_states is None


@pytest.mark.parametrize("variant", ["plain", "bert"])
@torch.no_grad()
def test_a_tuple_has_the_fields_in_their_order(tmp_path, variant):
    model = build(*VARIANTS[variant])
    texts = make_texts([4, 6])
    model.config.return_dict = True
    calls = {
        "forward": lambda **how: model(**example(), **how),
        "images": lambda **how: model.get_image_features(make_images(2), **how),
        "texts": lambda **how: model.get_text_features(**texts, **how),
    }
    for name, call in calls.items():
        expected = call(output_hidden_states=True).to_tuple()
        given = call(output_hidden_states=True, return_dict=False)
        assert_equal(given, expected, name)
    save(model, tmp_path)
    model = AutoModel.from_pretrained(tmp_path, return_dict=False).eval()
    for name, call in calls.items():
        assert_equal(call(), call(return_dict=True).to_tuple(), name)


def assert_equal(given, expected, name: str):
    """The same tensors in the same places of tuples of tuples."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(given, expected), name
        return
    assert type(given) is tuple, name
    # What belongs to one tower keeps its names within the joint tuple.
    expected = tuple(expected.values()) if isinstance(expected, dict) else expected
    assert len(given) == len(expected), name
    for one, other in zip(given, expected, strict=True):
        if isinstance(other, dict):
            one, other = tuple(one.values()), tuple(other.values())
        assert_equal(one, other, name)


def load_mismatched(model_class, folder, **fields):
    """Load with other sizes; without leave, Transformers' report names what does not fit."""
    logger = logging.get_logger("transformers.modeling_utils")
    with CaptureLogger(logger) as report, pytest.raises(RuntimeError, match="mismatched_sizes"):
        model_class.from_pretrained(folder, **fields)
    loaded, found = model_class.from_pretrained(
        folder, ignore_mismatched_sizes=True, output_loading_info=True, **fields
    )
    misfits = {name for name, *_ in found["mismatched_keys"]}
    assert all(name in report.out for name in misfits)
    return loaded, misfits


def assert_equal_weights(model, expected, beside: set):
    for name, weight in expected.state_dict().items():
        if name not in beside:
            assert torch.equal(model.state_dict()[name], weight), name


def test_a_classifier_takes_another_number_of_labels(tmp_path):
    config = small_config().vision_config
    config.num_labels = 3
    model = ClipVitForImageClassification(config)
    folder = save(model, tmp_path)
    loaded, misfits = load_mismatched(ClipVitForImageClassification, folder, num_labels=7)
    assert misfits == {"classifier.weight", "classifier.bias"}
    assert_equal_weights(loaded, model, misfits)
    assert loaded.eval()(make_images(2)).logits.shape == (2, 7)
    assert loaded.classifier.weight.std() > 0


def test_another_image_size_starts_new_positions(tmp_path):
    model = small_model()
    folder = save(model, tmp_path)
    images = make_images(2, size=48)
    name = "embeddings.position_embedding.weight"
    tower, misfits = load_mismatched(ClipVitVisionModel, folder, image_size=48)
    assert misfits == {name}
    assert_equal_weights(tower, model.vision_model, misfits)
    assert tower.eval()(images).last_hidden_state.shape == (2, 37, 32)
    config = ClipVitConfig.from_pretrained(folder)
    config.vision_config.image_size = 48
    joint, misfits = load_mismatched(ClipVitModel, folder, config=config)
    assert misfits == {f"vision_model.{name}"}
    assert_equal_weights(joint, model, misfits)
    assert joint.eval().get_image_features(images).pooler_output.isfinite().all()


def test_shards_come_back_bit_equal_whole_and_as_towers(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(model.state_dict())
    shards = {path.name for path in tmp_path.glob("*.safetensors")}
    assert shards == set(index["weight_map"].values())
    assert len(shards) > 3
    images, texts = make_images(2), make_texts([4, 6])
    calls = {
        ClipVitModel: lambda m: m(**example()).logits_per_image,
        ClipVitVisionModel: lambda m: m(images).pooler_output,
        ClipVitTextModel: lambda m: m(**texts).pooler_output,
        ClipVitVisionModelWithProjection: lambda m: m(images).image_embeds,
        ClipVitTextModelWithProjection: lambda m: m(**texts).text_embeds,
    }
    expected = {
        ClipVitModel: model(**example()).logits_per_image,
        ClipVitVisionModel: model.vision_model(images).pooler_output,
        ClipVitTextModel: model.text_model(**texts).pooler_output,
        ClipVitVisionModelWithProjection: model.get_image_features(images).pooler_output,
        ClipVitTextModelWithProjection: model.get_text_features(**texts).pooler_output,
    }
    for model_class, call in calls.items():
        loaded, found = model_class.from_pretrained(tmp_path, output_loading_info=True)
        assert not any(found.values()), model_class
        assert torch.equal(call(loaded.eval()), expected[model_class]), model_class
