"""Exports of models that take images in their own aspect ratio."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import normalize

from modeling_clip_vit.cli import main
from modeling_clip_vit.export.folder import check_takes_images, export_clip
from modeling_clip_vit.export.parts import make_images, shapes_of
from modeling_clip_vit.inference.exported import ExportedEncoder, ExportError
from modeling_clip_vit.inference.loading import load_clip, load_encoder
from modeling_clip_vit.runtimes import RUNTIMES, exporting_runtimes
from modeling_clip_vit.runtimes.runtime import IMAGE_INPUTS
from tests.support.models import small_model
from tests.support.pictures import draw_picture
from tests.support.processes import run_example

#: Width and height: wide, high, square, smaller than a patch.
SIZES = [(90, 30), (31, 77), (48, 48), (5, 3), (640, 120)]


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        for width, height in SIZES
    ]


@pytest.fixture(scope="module")
def native_exports(tmp_path_factory, native_export, native_checkpoint, color_dataset):
    """Makes the export of a format and precision, each once."""
    root = tmp_path_factory.mktemp("native_exports")

    def make(format: str, precision: str = "fp32") -> Path:
        if (format, precision) == ("onnx", "fp32"):
            return native_export
        target = root / f"{format}-{precision}"
        if not target.exists():
            command = ["export", str(native_checkpoint), str(target), "--format", format]
            if precision == "int8":
                command += ["--precision", precision, "--calibration", str(color_dataset)]
            assert main(command) == 0
        return target

    return make


@pytest.mark.parametrize(
    ("format", "runtime"),
    [
        ("onnx", "onnxruntime"),
        ("onnx", "openvino"),
        ("openvino", "openvino"),
        ("torch_export", "torch"),
    ],
)
@pytest.mark.parametrize("count", [1, 5])
def test_pictures_of_any_shape_have_the_embeddings_of_torch(
    native_exports, native_checkpoint, pictures, format, runtime, count
):
    encoder = load_encoder(str(native_exports(format)), runtime)
    expected = load_encoder(str(native_checkpoint)).encode_image(pictures[:count])
    embeds = encoder.encode_image(pictures[:count])
    torch.testing.assert_close(embeds, expected, atol=1e-4, rtol=0)


def test_int8_stays_close(native_exports, native_checkpoint):
    drawn = [draw_picture("red", 0).resize(size) for size in SIZES]
    embeds = load_encoder(str(native_exports("onnx", "int8"))).encode_image(drawn)
    expected = load_encoder(str(native_checkpoint)).encode_image(drawn)
    assert (embeds * expected).sum(dim=1).min() > 0.97


@pytest.mark.parametrize(
    "vision",
    [
        {"position_embedding_type": "rope", "pooling": "map", "patch_embedding": "linear"},
        {"position_embedding_type": "sincos", "pooling": "mean", "num_register_tokens": 2},
        {"position_interpolation": "antialiased", "pooling": "map"},
    ],
    ids=["rotary", "sine-cosine", "SigLIP 2"],
)
def test_other_positions_and_poolings_are_exported(native_checkpoint, tmp_path, vision):
    _, processor = load_clip(str(native_checkpoint))
    model = small_model(vision=vision)
    export_clip(model, processor, tmp_path / "out", "onnx", part="image")
    inputs = make_images(shapes_of(model, processor), 4, seed=9)
    with torch.no_grad():
        expected = normalize(model.get_image_features(**inputs).pooler_output, dim=-1)
    embeds = ExportedEncoder(tmp_path / "out").encode_inputs(inputs)
    torch.testing.assert_close(embeds, expected, atol=1e-4, rtol=0)


def test_padding_changes_nothing(native_export, native_checkpoint):
    shapes = shapes_of(*load_clip(str(native_checkpoint)))
    inputs = {name: value.numpy() for name, value in make_images(shapes, 1, seed=1).items()}
    encoder, patches = load_encoder(str(native_export)), inputs.pop("pixel_values")
    expected = encoder.run_image(patches, **inputs)
    more = shapes.max_patches - patches.shape[1]
    padded = np.pad(patches, ((0, 0), (0, more), (0, 0)), constant_values=7.0)
    mask = np.pad(inputs["pixel_attention_mask"], ((0, 0), (0, more)))
    embeds = encoder.run_image(padded, **inputs | {"pixel_attention_mask": mask})
    np.testing.assert_allclose(embeds, expected, atol=1e-5)


def test_the_example_embeds_a_wide_picture_as_the_checkpoint_does(
    native_export, native_checkpoint, tmp_path, pictures
):
    path = tmp_path / "wide.png"
    pictures[-1].save(path)
    lines = run_example(native_export, str(path), "a red square")
    encoder = load_encoder(str(native_checkpoint))
    cosine = encoder.encode_image(pictures[-1:]) @ encoder.encode_text("a red square").t()
    assert float(lines.split()[0]) == pytest.approx(float(cosine), abs=2e-3)


PATCHES = np.zeros((2, 6, 192), np.float32)
MASK, GRID = np.ones((2, 6), np.int64), np.array([[2, 3], [3, 2]])
BAD_INPUTS = {
    "numbers": ({"pixels": PATCHES[..., :100]}, "float32 of shape (batch, patches, 192)"),
    "mask": ({"pixel_attention_mask": MASK[:, :5]}, "pixel_attention_mask is int64"),
    "shapes": ({"spatial_shapes": GRID.astype(np.int32)}, "spatial_shapes is int32"),
    "grid": ({"spatial_shapes": GRID + 1}, "keeps as many as spatial_shapes says"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_patches_of_a_wrong_type_or_size_are_rejected(native_export, case):
    changed, sentence = BAD_INPUTS[case]
    inputs = {"pixels": PATCHES, "pixel_attention_mask": MASK, "spatial_shapes": GRID} | changed
    with pytest.raises(ExportError, match=re.escape(sentence)):
        load_encoder(str(native_export)).run_image(**inputs)


def test_squares_are_rejected(native_export):
    with pytest.raises(ExportError, match="the image inputs are pixel_values, but this export"):
        load_encoder(str(native_export)).run_image(np.zeros((2, 3, 32, 32), np.float32))


def test_the_inputs_are_those_of_the_image_processor(native_export):
    encoder = ExportedEncoder(native_export)
    assert encoder.manifest["image_inputs"] == list(IMAGE_INPUTS)


def test_a_runtime_that_takes_squares_alone_is_rejected(native_checkpoint):
    shapes = shapes_of(*load_clip(str(native_checkpoint)))
    with pytest.raises(ExportError, match=r"takes squares, .*use onnx, openvino, torch_export"):
        check_takes_images(RUNTIMES["executorch"], shapes)
    for name in ("onnx", "openvino", "torch_export"):
        check_takes_images(exporting_runtimes()[name], shapes)
