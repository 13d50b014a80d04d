"""Loading as any model of Transformers is loaded: where to, how precise, from which files."""

import json
from pathlib import Path

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
    ClipVitVisionModel,
)
from tests.support.models import PARTS, VISION, make_images, make_texts, small_config, small_model

SUBMODULES = ("vision_model", "text_model", "visual_projection", "text_projection", "similarity")
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
    "text on disk": {"device_map": dict.fromkeys(SUBMODULES, "cpu") | {"text_model": "disk"}},
    "images in memory": {"device_map": dict.fromkeys(SUBMODULES, "disk") | {"vision_model": "cpu"}},
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
def test_where_the_weights_are_changes_nothing(tmp_path, variant, placement):
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


#: Images of other shapes than the model was made for.
SHAPES = {
    "larger": {"pixel_values": make_images(2, size=48), "interpolate_pos_encoding": True},
    "patches": {
        "pixel_values": make_images(2)[..., :18].reshape(2, 9, 192)[:, :6],
        "pixel_attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2]),
        "spatial_shapes": torch.tensor([[2, 3], [1, 4]]),
    },
}


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_an_offloaded_tower_takes_images_of_any_shape(tmp_path, shape):
    model = small_model().vision_model
    folder = save(model, tmp_path / "saved")
    loaded = ClipVitVisionModel.from_pretrained(folder, device_map={"": "disk"}).eval()
    expected = model(**SHAPES[shape]).pooler_output
    assert torch.equal(loaded(**SHAPES[shape]).pooler_output, expected)


@pytest.mark.parametrize("variant", ["plain", "bert"])
@torch.no_grad()
def test_a_model_loads_in_half_precision_and_embeds_nearly_the_same(tmp_path, variant):
    model = build(*VARIANTS[variant])
    folder = save(model, tmp_path)
    half = AutoModel.from_pretrained(folder, dtype=torch.bfloat16).eval()
    assert {weight.dtype for weight in half.parameters()} == {torch.bfloat16}
    outputs, expected = half(**example()), model(**example())
    for name in ("image_embeds", "text_embeds"):
        assert outputs[name].dtype == torch.bfloat16
        cosines = torch.cosine_similarity(outputs[name].float(), expected[name])
        assert cosines.min() > 0.999


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.bfloat16), ("float32", torch.float32)]
)
@pytest.mark.parametrize("variant", ["plain", "bert"])
def test_a_model_in_half_precision_loads_in_its_own_or_another(tmp_path, variant, dtype, expected):
    folder = save(build(*VARIANTS[variant]).to(torch.bfloat16), tmp_path)
    model = AutoModel.from_pretrained(folder, dtype=dtype)
    assert {weight.dtype for weight in model.parameters()} == {expected}


def kernels(model: ClipVitModel) -> dict[str, str]:
    """The attention kernel of each tower."""
    return {
        "vision_config": model.vision_model.config._attn_implementation,
        "text_config": model.text_model.config._attn_implementation,
    }


@pytest.mark.parametrize("moment", ["at loading", "after it"])
@pytest.mark.parametrize("kernel", ["eager", "sdpa", "mixed"])
@pytest.mark.parametrize("variant", ["plain", "bert"])
@torch.no_grad()
def test_the_kernel_can_be_chosen(tmp_path, variant, kernel, moment):
    expected = {"vision_config": kernel, "text_config": kernel}
    if kernel == "mixed":
        kernel = expected = {"vision_config": "eager", "text_config": "sdpa"}
    model = build(*VARIANTS[variant])
    folder = save(model, tmp_path)
    if moment == "at loading":
        loaded = AutoModel.from_pretrained(folder, attn_implementation=kernel).eval()
    else:
        loaded = AutoModel.from_pretrained(folder).eval()
        loaded.set_attn_implementation(kernel)
    assert kernels(loaded) == expected
    logits = model(**example()).logits_per_image
    assert_close(loaded(**example()).logits_per_image, logits, atol=1e-4, rtol=1e-4)


#: Tower -> its output, and the shape of its attention over two items.
TOWERS = {
    "vision": ("vision_model_output", (2, 4, 17, 17)),
    "text": ("text_model_output", (2, 2, 6, 6)),
}


@pytest.fixture(params=["plain", "bert"])
def eager(request, tmp_path) -> ClipVitModel:
    """A model with the kernel that returns attentions."""
    folder = save(build(*VARIANTS[request.param]), tmp_path)
    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


@pytest.mark.parametrize("tower", TOWERS)
@torch.no_grad()
def test_attentions_come_from_both_towers(eager, tower):
    name, shape = TOWERS[tower]
    attentions = eager(**example(), output_attentions=True)[name].attentions
    assert [weights.shape for weights in attentions] == [shape, shape]
    for weights in attentions:
        assert_close(weights.sum(dim=-1), torch.ones(shape[:-1]))


@pytest.mark.parametrize("tower", TOWERS)
@torch.no_grad()
def test_hidden_states_come_from_both_towers(eager, tower):
    output = eager(**example(), output_hidden_states=True)[TOWERS[tower][0]]
    shape = output.last_hidden_state.shape
    assert [states.shape for states in output.hidden_states] == [shape] * 3
    assert (output.hidden_states[0] - output.hidden_states[1]).abs().max() > 1e-3


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("field", ["attentions", "hidden_states"])
@torch.no_grad()
def test_neither_is_returned_by_default(eager, tower, field):
    assert getattr(eager(**example())[TOWERS[tower][0]], field) is None


CALLS = {
    "forward": lambda model, **options: model(**example(), **options),
    "images": lambda model, **options: model.get_image_features(make_images(2), **options),
    "texts": lambda model, **options: model.get_text_features(**make_texts([4, 6]), **options),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("variant", ["plain", "bert"])
@torch.no_grad()
def test_a_tuple_has_the_fields_in_their_order(variant, call):
    model = build(*VARIANTS[variant])
    outputs = CALLS[call](model, output_hidden_states=True, return_dict=False)
    assert_equal(outputs, CALLS[call](model, output_hidden_states=True).to_tuple())


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("variant", ["plain", "bert"])
@torch.no_grad()
def test_a_model_can_be_loaded_to_return_tuples(tmp_path, variant, call):
    folder = save(build(*VARIANTS[variant]), tmp_path)
    model = AutoModel.from_pretrained(folder, return_dict=False).eval()
    assert_equal(CALLS[call](model), CALLS[call](model, return_dict=True).to_tuple())


def assert_equal(outputs, expected):
    """The same tensors in the same places of tuples of tuples."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(outputs, expected)
        return
    assert type(outputs) is tuple
    # The output of one tower keeps its names within the joint tuple.
    expected = tuple(expected.values()) if isinstance(expected, dict) else expected
    for one, other in zip(outputs, expected, strict=True):
        if isinstance(other, dict):
            one, other = tuple(one.values()), tuple(other.values())
        assert_equal(one, other)


def load_mismatched(model_class, folder, **fields):
    """Load with other sizes; unless that is allowed, Transformers names the misfits and fails."""
    logger = logging.get_logger("transformers.modeling_utils")
    with CaptureLogger(logger) as report, pytest.raises(RuntimeError, match="mismatched_sizes"):
        model_class.from_pretrained(folder, **fields)
    loaded, info = model_class.from_pretrained(
        folder, ignore_mismatched_sizes=True, output_loading_info=True, **fields
    )
    misfits = {name for name, *_ in info["mismatched_keys"]}
    assert all(name in report.out for name in misfits)
    return loaded, misfits


def assert_equal_weights(model, expected, but: set):
    for name, weight in expected.state_dict().items():
        if name not in but:
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


POSITIONS = "embeddings.position_embedding.weight"


def test_a_tower_of_another_image_size_starts_new_positions(tmp_path):
    model = small_model()
    folder = save(model, tmp_path)
    tower, misfits = load_mismatched(ClipVitVisionModel, folder, image_size=48)
    assert misfits == {POSITIONS}
    assert_equal_weights(tower, model.vision_model, misfits)
    assert tower.eval()(make_images(2, size=48)).last_hidden_state.shape == (2, 37, 32)


def test_a_joint_model_of_another_image_size_starts_new_positions(tmp_path):
    model = small_model()
    folder = save(model, tmp_path)
    config = ClipVitConfig.from_pretrained(folder)
    config.vision_config.image_size = 48
    joint, misfits = load_mismatched(ClipVitModel, folder, config=config)
    assert misfits == {f"vision_model.{POSITIONS}"}
    assert_equal_weights(joint, model, misfits)
    features = joint.eval().get_image_features(make_images(2, size=48)).pooler_output
    assert features.isfinite().all()


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> Path:
    """The folder of a model that is saved in several files."""
    folder = tmp_path_factory.mktemp("shards")
    small_model().save_pretrained(folder, max_shard_size="20KB")
    return folder


def test_the_index_lists_every_weight_and_shard(shards):
    index = json.loads((shards / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(small_model().state_dict())
    files = {path.name for path in shards.glob("*.safetensors")}
    assert files == set(index["weight_map"].values())
    assert len(files) > 3


@pytest.mark.parametrize("model_class", PARTS)
def test_shards_come_back_bit_equal_whole_and_as_towers(shards, model_class):
    compute, expect = PARTS[model_class]
    inputs = make_images(2), make_texts([4, 6])
    loaded, info = model_class.from_pretrained(shards, output_loading_info=True)
    assert not any(info.values())
    assert torch.equal(compute(loaded.eval(), *inputs), expect(small_model(), *inputs))
