"""NNCF's rounding with fixed ranges, and the OpenVINO export that it becomes."""

import copy
from pathlib import Path

import pytest
import torch

from modeling_clip_vit.export.folder import export_clip
from modeling_clip_vit.inference.exported import ExportedEncoder
from modeling_clip_vit.quantization import static
from modeling_clip_vit.quantization.eight_bits import without_fakes
from modeling_clip_vit.quantization.layers import QuantizationError
from modeling_clip_vit.quantization.options import DEFAULT_SKIP
from tests.support.models import make_images, make_texts, small_model

pytestmark = pytest.mark.slow

TEXT = {"pooling": "mean", "is_causal": False}


def batches() -> dict[str, list[static.Batch]]:
    return {
        "vision_model": [{"pixel_values": part} for part in make_images(8).split(4)],
        "text_model": [make_texts([4, 6, 5, 9]), make_texts([3, 7, 8, 8])],
    }


def cosine(embeds: torch.Tensor, expected: torch.Tensor) -> float:
    return torch.cosine_similarity(embeds, expected).min().item()


@torch.no_grad()
def embed(model, count: int = 5) -> list[torch.Tensor]:
    """Embed another number of images and longer texts than ranges were estimated from."""
    texts = make_texts([12, 3, 7, 9, 4])
    images = model.get_image_features(make_images(count)).pooler_output
    return [images, model.get_text_features(**texts).pooler_output]


def embed_exported(folder: Path, count: int = 5) -> list[torch.Tensor]:
    """The same items by an export."""
    encoder = ExportedEncoder(folder)
    texts = {name: value.numpy() for name, value in make_texts([12, 3, 7, 9, 4]).items()}
    arrays = [encoder.run_image(make_images(count).numpy()), encoder.run_text(texts)]
    return [torch.from_numpy(array) for array in arrays]


@pytest.mark.parametrize("skip", [DEFAULT_SKIP, ()])
def test_a_static_model_embeds_alike_and_its_export_as_it_does(tmp_path, processor, skip):
    model = small_model(text=TEXT)
    small = copy.deepcopy(model)
    static.fake_quantize_towers(small, batches(), skip)
    export_clip(small, processor, tmp_path / "int8", "openvino", "int8")
    rounded, exported = embed(small), embed_exported(tmp_path / "int8")
    for embeds, fake, expected in zip(exported, rounded, embed(model), strict=True):
        assert embeds.dtype == torch.float32
        assert 0.98 < cosine(embeds, expected) < 1 - 1e-6
        assert cosine(embeds, fake) > 0.9995  # another order of sums: a value at an edge flips
    weights = sum(path.stat().st_size for path in (tmp_path / "int8").glob("*.bin"))
    assert weights < 0.5 * sum(p.numel() * 4 for p in model.parameters())


@pytest.fixture(scope="module")
def towers() -> tuple:
    """A model, and a copy whose towers round."""
    model = small_model(text=TEXT)
    rounding = copy.deepcopy(model)
    static.fake_quantize_towers(rounding, batches(), DEFAULT_SKIP)
    return model, rounding


def test_towers_round_in_place(towers):
    for exact, fake in zip(*map(embed, towers), strict=True):
        assert 0.98 < cosine(exact, fake) < 1 - 1e-6


def test_rounding_changes_no_name(towers):
    model, rounding = towers
    names = {name for name in rounding.state_dict() if static.HOOKS not in name}
    assert names == set(model.state_dict())


def test_rounding_changes_no_weight(towers):
    model, rounding = towers
    before = model.state_dict()
    for name, value in without_fakes(rounding).state_dict().items():
        assert torch.equal(value, before[name]), name


def test_rounding_can_be_turned_off(towers):
    model, rounding = towers
    exact = copy.deepcopy(rounding)
    static.switch_fake(exact, False)
    for embeds, expected in zip(embed(exact), embed(model), strict=True):
        assert torch.equal(embeds, expected)


def test_skipped_layers_have_no_ranges():
    model = small_model(text=TEXT)
    static.fake_quantize_towers(model, batches(), [*DEFAULT_SKIP, "text_model.encoder.layers.0.*"])
    names = [name for name in static.hook_state(model) if "qkv_proj" in name]
    layers = {
        tower: {name.split("qkv_proj")[1].split("__")[0] for name in names if tower in name}
        for tower in ("vision_model", "text_model")
    }
    # NNCF counts the uses of layers of one name: those of the first block, and of the second.
    assert layers == {"vision_model": {"/linear/0", "/linear/1"}, "text_model": {"/linear/1"}}


def test_ranges_have_gradients(towers):
    model = copy.deepcopy(towers[1])
    inputs = {"pixel_values": make_images(4), **make_texts([4, 6, 5, 9])}
    model(**inputs, return_loss=True).loss.backward()
    ranges = static.range_parameters(model)
    assert len(ranges) > 10
    assert all(parameter.grad is not None for parameter in ranges)
    assert sum(bool(parameter.grad.any()) for parameter in ranges) > len(ranges) / 2


def test_static_ranges_need_calibration_data():
    with pytest.raises(QuantizationError, match="there is no calibration data"):
        static.nncf_quantize(small_model().vision_model, [])
