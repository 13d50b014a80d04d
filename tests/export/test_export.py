"""Exports against their source in torch, without torch, and what cannot be exported or run."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from torch.nn.functional import cosine_similarity, normalize
from transformers import (
    AutoModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipModel,
)

from modeling_clip_vit.cli import main
from modeling_clip_vit.data.tokenizer import train_tokenizer
from modeling_clip_vit.export.check import LEAST_COSINE
from modeling_clip_vit.export.folder import export_clip
from modeling_clip_vit.export.parts import (
    ImagePart,
    TextPart,
    dynamic_shapes,
    example_inputs,
    shapes_of,
)
from modeling_clip_vit.inference.exported import EXPORT_FILE, ExportedEncoder
from modeling_clip_vit.inference.loading import load_clip, load_encoder
from modeling_clip_vit.runtimes import RUNTIMES, GraphSource, open_session, openvino, runtimes_of
from modeling_clip_vit.training.models import build_processor
from tests.support import REPOSITORY
from tests.support.models import make_images, make_texts, small_model
from tests.support.pictures import COLORS, draw_picture
from tests.support.processes import run_example

FORMATS = ("onnx", "openvino", "torch_export")
COMBINATIONS = [
    (format, precision, part)
    for format in FORMATS
    for precision, part in (
        ("fp32", "both"),
        ("bf16", "both"),
        ("int8", "both"),
        ("fp32", "joint"),
        ("int8", "joint"),
    )
]


@pytest.fixture(scope="module")
def exports(tmp_path_factory, checkpoint, color_dataset):
    """Makes the export of a format, precision and part, each once."""
    root = tmp_path_factory.mktemp("exports")

    def make(format: str, precision: str = "fp32", part: str = "both") -> Path:
        target = root / f"{format}-{precision}-{part}"
        if not target.exists():
            command = ["export", str(checkpoint), str(target), "--format", format]
            command += ["--precision", precision, "--part", part]
            if precision == "int8":
                command += ["--calibration", str(color_dataset), "--num_calibration", "32"]
            assert main(command) == 0
        return target

    return make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Pictures of eight colours, wider than high."""
    folder = tmp_path_factory.mktemp("pictures")
    for number, color in enumerate(COLORS):
        draw_picture(color, number).resize((60, 45)).save(folder / f"{color}.png")
    return folder


def embed(model, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The embeddings of inputs, and the logits if there are both, by a model's methods in torch."""
    embeds = {}
    texts = {name: value for name, value in inputs.items() if name != "pixel_values"}
    with torch.no_grad():
        if "pixel_values" in inputs:
            outputs = model.get_image_features(pixel_values=inputs["pixel_values"])
            embeds["image_embeds"] = normalize(outputs.pooler_output, dim=-1)
        if texts:
            outputs = model.get_text_features(**texts)
            embeds["text_embeds"] = normalize(outputs.pooler_output, dim=-1)
        if len(embeds) == 2:
            embeds["logits_per_image"] = model(**inputs).logits_per_image
    return embeds


def run(encoder: ExportedEncoder, part: str, inputs: dict[str, torch.Tensor]) -> dict:
    arrays = {name: value.numpy() for name, value in inputs.items()}
    outputs = encoder.sessions[part](arrays)
    return {name: torch.from_numpy(value) for name, value in outputs.items()}


def squares(processor, images: int, texts: int) -> dict[str, torch.Tensor]:
    """Pictures, and texts of two lengths that resemble the calibration data of int8."""
    names = list(COLORS)
    drawn = [draw_picture(name, 7) for name in names[:images]]
    captions = [
        f"a {name} square" if row % 2 else f"{COLORS[name]}方块"
        for row, name in enumerate(names[:texts])
    ]
    tokens = processor.tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
    return {**processor(images=drawn, return_tensors="pt"), **tokens}


#: Numbers of images and texts that neither the trace nor the check before writing had.
@pytest.mark.parametrize(("images", "texts"), [(1, 6), (7, 3)])
@pytest.mark.parametrize(("format", "precision", "part"), COMBINATIONS)
def test_an_export_computes_what_torch_does_at_any_batch_and_length(
    exports, checkpoint, format, precision, part, images, texts
):
    encoder = load_encoder(str(exports(format, precision, part)), runtimes_of(format)[0])
    model, processor = load_clip(str(checkpoint))
    inputs = squares(processor, images, texts)
    token_names = [name for name in inputs if name != "pixel_values"]
    expected = embed(model, inputs)
    for name in encoder.sessions:
        kinds = {"image": ["pixel_values"], "text": token_names}.get(name, list(inputs))
        outputs = run(encoder, name, {kind: inputs[kind] for kind in kinds})
        for output, value in outputs.items():
            if output == "logits_per_image":
                scale = float(model.get_logit_scale().detach())
                tolerance = scale * {"fp32": 1e-5, "int8": 0.2}[precision]
                torch.testing.assert_close(value, expected[output], atol=tolerance, rtol=0)
            else:
                least = LEAST_COSINE[precision]
                assert cosine_similarity(value, expected[output]).min() >= least, output
                lengths = value.norm(dim=-1)
                torch.testing.assert_close(lengths, torch.ones(len(value)), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("part", "number"), [("both", 1), ("joint", 3)])
def test_openvinos_int8_leaves_projections_and_logits_float(exports, part, number):
    import openvino

    for file in exports("openvino", "int8", part).glob("openvino_*.xml"):
        rounded = {"vectors": [], "tokens": []}
        for operation in openvino.Core().read_model(file).get_ordered_ops():
            if operation.get_type_name() == "MatMul":
                kind = "vectors" if len(operation.get_output_partial_shape(0)) == 2 else "tokens"
                kinds = [value.get_node().get_type_name() for value in operation.input_values()]
                rounded[kind].append("FakeQuantize" in kinds)
        assert rounded["vectors"] == [False] * number
        assert sum(rounded["tokens"]) >= 4


def make_source(part, shapes, kind: str, precision: str) -> GraphSource:
    """What an export gives a runtime to convert."""
    inputs = example_inputs(shapes, (kind,))
    return GraphSource(part.eval(), inputs, dynamic_shapes(shapes, inputs), precision, [])


@pytest.mark.parametrize(("part", "kind"), [(ImagePart, "image"), (TextPart, "text")])
def test_a_projection_of_several_layers_stays_float_whole(processor, part, kind):
    model = small_model({"projection_type": "mlp"}, {"projection_type": "mlp"})
    source = make_source(part(model), shapes_of(model, processor), kind, "fp32")
    component = RUNTIMES["openvino"].convert(source)
    assert len(openvino.products_after_pooling(component.program)) == 2


def test_openvinos_bf16_holds_its_own_numbers(checkpoint, monkeypatch):
    model, processor = load_clip(str(checkpoint))
    source = make_source(ImagePart(model), shapes_of(model, processor), "image", "bf16")
    inputs, copies = source.inputs, []

    def keep(source):
        copies.append(halve(source))
        return copies[0]

    halve = openvino.to_bfloat16
    monkeypatch.setattr(openvino, "to_bfloat16", keep)
    component = RUNTIMES["openvino"].convert(source)
    with torch.no_grad():
        for weight in copies[0].module.parameters():
            weight.fill_(torch.nan)  # as when the copy is gone and its memory is used again
    compiled = openvino.openvino_core().compile_model(component.program, "CPU")
    embeds = torch.from_numpy(
        np.array(compiled({"pixel_values": inputs["pixel_values"].numpy()})[0])
    )
    expected = embed(model, inputs)["image_embeds"]
    assert cosine_similarity(embeds, expected).min() >= LEAST_COSINE["bf16"]


@pytest.mark.parametrize("part", ["image", "text"])
@pytest.mark.parametrize(("precision", "share"), [("bf16", 0.6), ("int8", 0.5)])
def test_weights_of_fewer_bits_take_fewer_bytes(exports, precision, share, part):
    rounded, exact = (
        (exports("onnx", name) / f"{part}.onnx.data").stat().st_size for name in (precision, "fp32")
    )
    assert rounded < share * exact


@pytest.mark.parametrize("part", ["image", "text"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("format", [format for format in FORMATS if format != "openvino"])
def test_only_fewer_bits_change_the_numbers(exports, format, precision, part):
    checks = json.loads((exports(format, precision) / EXPORT_FILE).read_text())["checks"]
    difference = checks[part]["max_difference"]
    if precision == "fp32":
        assert difference < 1e-5
    else:
        assert difference > 1e-4


@pytest.mark.parametrize(
    ("format", "runtime"),
    [
        ("onnx", "onnxruntime"),
        ("onnx", "openvino"),
        ("openvino", "auto"),
        ("torch_export", "torch"),
    ],
)
def test_search_on_an_export_ranks_as_on_the_checkpoint(
    exports, checkpoint, pictures, capsys, format, runtime
):
    def search(source: Path, *more: str) -> str:
        command = ["search", str(source), "一个红色方块", "--images", str(pictures), *more]
        assert main([*command, "--top_k", "8"]) == 0
        return capsys.readouterr().out

    exported = exports(format)
    capsys.readouterr()
    assert search(exported, "--runtime", runtime) == search(checkpoint)


@pytest.mark.parametrize(("format", "precision"), [("onnx", "fp32"), ("openvino", "int8")])
def test_the_example_gives_the_encoders_cosines_where_torch_cannot_be_imported(
    tmp_path, exports, pictures, format, precision
):
    folder = exports(format, precision)
    texts = ["a red square", "一个蓝色方块 and a text that is much too long " * 5, "cat"]
    draw_picture("red", 5).save(tmp_path / "red.png")
    encoder = load_encoder(str(folder))
    # A picture of the model's own size is not resized; Pillow and torchvision resize differently.
    for path, tolerance in ((tmp_path / "red.png", 1e-3), (pictures / "red.png", 0.03)):
        printed = run_example(folder, str(path), *texts)
        cosines = [float(line.split()[0]) for line in printed.splitlines()]
        image = encoder.encode_image([PillowImage.open(path).convert("RGB")])
        expected = (encoder.encode_text(texts) @ image[0]).tolist()
        assert cosines == pytest.approx(expected, abs=tolerance)


@pytest.mark.parametrize(("format", "precision"), [("onnx", "fp32"), ("openvino", "int8")])
def test_the_example_fits_a_screen(exports, format, precision):
    assert len((exports(format, precision) / "example.py").read_text().splitlines()) < 50


@pytest.mark.parametrize("part", ["image", "text", "joint"])
def test_the_example_of_each_part_runs_without_torch(exports, pictures, part):
    folder = exports("onnx", "fp32", part)
    arguments = {
        "image": [str(pictures / "red.png")],
        "text": ["a red square", "a cat"],
        "joint": [str(pictures / "red.png"), "a red square", "a cat"],
    }[part]
    lines = run_example(folder, *arguments).splitlines()
    if part == "joint":
        both = run_example(exports("onnx"), *arguments).splitlines()
        scale = json.loads((folder / EXPORT_FILE).read_text())["logit_scale"]
        for logit, cosine in zip(lines, both, strict=True):
            expected = scale * float(cosine.split()[0])
            assert float(logit.split()[0]) == pytest.approx(expected, abs=1e-3)
    else:
        vectors = np.array([json.loads(line) for line in lines])
        assert vectors.shape == (len(arguments), 16)
        np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize("part", ["both", "image", "text"])
def test_the_example_without_arguments_says_how_to_run_it(exports, part):
    command = [sys.executable, str(exports("onnx", "fp32", part) / "example.py")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: example.py")


def test_the_example_of_torch_export_runs_without_this_package_and_transformers(exports, pictures):
    others = ("transformers", "modeling_clip_vit")
    lines = run_example(exports("torch_export"), str(pictures / "red.png"), "cat", without=others)
    expected = run_example(exports("onnx"), str(pictures / "red.png"), "cat")
    assert lines == expected


VARIANTS = {
    "default": {},
    "modern": {
        "vision": {
            "pooling": "map",
            "position_embedding_type": "rope",
            "norm_type": "rmsnorm",
            "mlp_type": "glu",
            "num_key_value_heads": 2,
            "qk_norm": True,
            "num_register_tokens": 2,
            "attention_gate": "headwise",
            "value_residual": True,
        },
        "text": {
            "pooling": "eos",
            "position_embedding_type": "rope",
            "norm_type": "rmsnorm",
            "attention_gate": "elementwise",
            "value_residual": True,
        },
    },
    "sigmoid": {"vision": {"pooling": "mean"}, "logit_bias_init_value": -3.0},
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_other_architectures_export(tmp_path, processor, variant, format):
    model = small_model(**VARIANTS[variant])
    manifest = export_clip(model, processor, tmp_path / "out", format, part="joint")
    assert manifest["logit_bias"] == VARIANTS[variant].get("logit_bias_init_value")
    encoder = ExportedEncoder(tmp_path / "out")
    inputs = {"pixel_values": make_images(3), **make_texts([2, 9, 16, 1])}
    outputs = run(encoder, "joint", inputs)
    expected = model(**inputs)
    for name, value in outputs.items():
        torch.testing.assert_close(value, getattr(expected, name), atol=1e-4, rtol=1e-4)


def small_peer(kind: str):
    """A CLIP or SigLIP of Transformers, and a processor for it."""
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes["num_attention_heads"] = 4
    vision = {**sizes, "image_size": 32, "patch_size": 8}
    text = {**sizes, "vocab_size": 300, "max_position_embeddings": 16}
    text |= {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    texts = [f"a {name} square" for name in COLORS]
    tokenizer = train_tokenizer(texts, vocab_size=300, max_length=16)
    if kind == "clip":
        config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
        return CLIPModel(config).eval(), build_processor(tokenizer, 32)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        pad_token="<pad>",
        model_max_length=16,
        model_input_names=["input_ids"],
    )
    return (
        SiglipModel(SiglipConfig(vision_config=vision, text_config=text)).eval(),
        build_processor(tokenizer, 32),
    )


@pytest.mark.parametrize("kind", ["clip", "siglip"])
@pytest.mark.parametrize("format", ["onnx", "openvino"])
def test_models_of_transformers_export(tmp_path, pictures, kind, format):
    model, processor = small_peer(kind)
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    source, target = str(tmp_path / "model"), str(tmp_path / "out")
    assert main(["export", source, target, "--format", format]) == 0
    assert json.loads((tmp_path / "out" / EXPORT_FILE).read_text())["model_type"] == "clip_vit"
    texts = ["a red square", "cat"]
    torch.testing.assert_close(
        load_encoder(target).encode_text(texts),
        load_encoder(source).encode_text(texts),
        atol=1e-5,
        rtol=0,
    )
    printed = run_example(Path(target), str(pictures / "red.png"), *texts)
    assert len(printed.splitlines()) == 2


def test_transformers_reads_an_export_too(exports):
    from transformers.exporters import ExportedModel

    exported = ExportedModel.from_pretrained(exports("onnx", "fp32", "image"))
    outputs = exported(pixel_values=make_images(3))
    encoder = load_encoder(str(exports("onnx", "fp32", "image")))
    expected = encoder.run_image(make_images(3).numpy())
    np.testing.assert_allclose(outputs["image_embeds"].numpy(), expected, atol=1e-6)


@pytest.mark.slow
def test_executorch_takes_the_image_tower(tmp_path, checkpoint):
    pytest.importorskip("executorch")
    target = str(tmp_path / "out")
    assert main(["export", str(checkpoint), target, "--format", "executorch"]) == 0
    encoder = load_encoder(target)
    model = AutoModel.from_pretrained(checkpoint)
    expected = embed(model, {"pixel_values": make_images(3)})["image_embeds"]
    embeds = encoder.run_image(make_images(3).numpy())
    np.testing.assert_allclose(embeds, expected.numpy(), atol=1e-4)
    draw_picture("red", 7).save(tmp_path / "picture.png")
    command = [sys.executable, f"{target}/example.py", str(tmp_path / "picture.png")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # The example resizes with Pillow.
    printed = torch.tensor(json.loads(done.stdout))
    expected = encoder.encode_image([draw_picture("red", 7)])[0]
    assert torch.cosine_similarity(printed, expected, dim=0) > 0.99


ENDS_A_CHILD = """
import gc, signal, subprocess, sys
from modeling_clip_vit.inference.loading import load_encoder
signal.signal(signal.SIGCHLD, lambda number, frame: None)
encoders = [load_encoder(path) for path in sys.argv[1:]]
while encoders:
    encoders.pop(0)
    gc.collect()
subprocess.run(["true"], check=True)
print("alive")
"""


def test_a_process_outlives_its_encoders_and_then_a_child(exports):
    """OpenVINO's cores leave a stack for signals that is gone, if they go in the wrong order."""
    folders = [str(exports("openvino", "fp32")), str(exports("openvino", "int8"))]
    command = [sys.executable, "-c", ENDS_A_CHILD, *folders]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def reject(capsys, *command: str) -> str:
    """The one sentence in which a command ends."""
    capsys.readouterr()
    assert main(list(command)) == 1
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("error: ")
    return message


BAD_CHOICES = [
    (["--format", "tflite"], "no format 'tflite': there are onnx, openvino"),
    (["--format", "executorch", "--precision", "int8"], "does not take --precision int8"),
    (
        ["--format", "openvino", "--precision", "int8"],
        "needs calibration data: name a dataset of images and captions with --calibration",
    ),
    (["--format", "onnx", "--num_calibration", "0"], "--num_calibration is 0"),
    (
        ["--format", "openvino", "--precision", "int8", "--calibration", "/nowhere"],
        "no folder '/nowhere'",
    ),
]


@pytest.mark.parametrize(("options", "sentence"), BAD_CHOICES)
def test_options_that_do_not_fit_are_rejected(tmp_path, checkpoint, capsys, options, sentence):
    command = ["export", str(checkpoint), str(tmp_path / "out"), *options]
    assert sentence in reject(capsys, *command)
    assert list(tmp_path.iterdir()) == []


def test_a_target_that_is_not_empty_is_left_as_it_is(tmp_path, checkpoint, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    message = reject(capsys, "export", str(checkpoint), str(tmp_path), "--format", "onnx")
    assert "exists and is not an empty folder" in message
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]


def test_a_graph_that_computes_something_else_is_not_written(tmp_path, processor, monkeypatch):
    class Wrong(type(RUNTIMES["onnxruntime"])):
        def convert(self, source):
            wrong = small_model(vision={"hidden_act": "relu"})
            return super().convert(replace(source, module=ImagePart(wrong).eval()))

    monkeypatch.setitem(RUNTIMES, "onnxruntime", Wrong())
    with pytest.raises(ValueError, match=r"the exported image differs from its source: cosine 0\."):
        export_clip(small_model(), processor, tmp_path / "out", "onnx", part="image")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def copied(tmp_path, exports) -> Path:
    """A copy of an export, to be spoiled."""
    return Path(shutil.copytree(exports("onnx"), tmp_path / "copied"))


def flip(path: Path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def edit(folder: Path, **fields):
    path = folder / EXPORT_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


SPOILED = {
    "a weight": (lambda f: flip(f / "image.onnx.data"), "is not the file that was exported"),
    "the tokenizer": (lambda f: flip(f / "tokenizer.json"), "is not the file that was exported"),
    "a lost graph": (lambda f: (f / "text.onnx").unlink(), "is incomplete: there is no 'text.onnx"),
    "no manifest": (
        lambda f: (f / EXPORT_FILE).write_text("{}"),
        "not written by clip-vit export",
    ),
    "half a manifest": (lambda f: (f / EXPORT_FILE).write_text('{"a'), "cannot read"),
    "a format": (lambda f: edit(f, format="tflite"), "has the format 'tflite': allowed is onnx"),
    "no checksums": (lambda f: edit(f, files={}), "lists no checksum of 'image.onnx'"),
    "a path": (lambda f: edit(f, files={"../a": {}}, components={}), "there is no '../a' in it"),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_a_changed_or_incomplete_export_is_rejected(copied, pictures, capsys, spoiled):
    spoil, sentence = SPOILED[spoiled]
    spoil(copied)
    message = reject(capsys, "search", str(copied), "a cat", "--images", str(pictures))
    assert sentence in message
    assert str(copied) in message


def test_a_graph_that_the_runtime_cannot_read_is_rejected(tmp_path):
    (tmp_path / "image.onnx").write_bytes(b"not a graph")
    with pytest.raises(ValueError, match=r"onnxruntime cannot load .*image\.onnx"):
        open_session(tmp_path / "image.onnx", "onnxruntime", "fp32")


def test_a_program_that_could_run_code_needs_an_explicit_runtime(exports, pictures, capsys):
    folder = str(exports("torch_export"))
    message = reject(capsys, "search", folder, "a cat", "--images", str(pictures))
    assert "can run code that it contains: name the runtime 'torch' if you trust" in message


def test_a_runtime_of_another_format_is_rejected(exports, pictures, capsys):
    rest = ["a cat", "--images", str(pictures), "--runtime", "onnxruntime"]
    message = reject(capsys, "search", str(exports("openvino")), *rest)
    assert "which is of format 'openvino': allowed is openvino" in message


def test_a_runtime_for_a_checkpoint_is_rejected(checkpoint, pictures, capsys):
    rest = ["a cat", "--images", str(pictures), "--runtime", "onnxruntime"]
    message = reject(capsys, "search", str(checkpoint), *rest)
    assert "make one with clip-vit export" in message


def test_an_export_is_no_checkpoint(exports, tmp_path, capsys):
    folder = str(exports("onnx"))
    message = reject(capsys, "export", folder, str(tmp_path / "out"), "--format", "onnx")
    assert "is an exported model; pass the checkpoint" in message


@pytest.mark.parametrize("part", ["image", "joint"])
def test_a_part_that_is_not_there_is_named(exports, pictures, capsys, part):
    folder = str(exports("onnx", "fp32", part))
    message = reject(capsys, "search", folder, "a cat", "--images", str(pictures))
    assert f"only has the part {part}, " in message


IMAGES = np.zeros((2, 3, 32, 32), np.float32)
IDS = np.ones((2, 4), np.int64)
BAD_INPUTS = {
    "size": ({"pixel_values": IMAGES[..., :16]}, "shape (2, 3, 32, 16), but this export takes"),
    "type": ({"pixel_values": IMAGES.astype(np.float64)}, "pixel_values is float64"),
    "one image": ({"pixel_values": IMAGES[0]}, "float32 of shape (batch, 3, 32, 32)"),
    "length": ({"input_ids": np.ones((1, 17), np.int64)}, "texts of 17 tokens are not allowed"),
    "token": ({"input_ids": IDS * 300}, "token 300 is not allowed"),
    "negative": ({"input_ids": IDS - [0, 2, 0, 0]}, "token -1 is not allowed"),
    "id type": ({"input_ids": IDS.astype(np.int32)}, "input_ids is int32 of shape (2, 4)"),
    "no mask": ({"input_ids": IDS, "attention_mask": None}, "the text inputs are input_ids, but"),
    "mask": (
        {"input_ids": IDS, "attention_mask": np.ones((2, 3), np.int64)},
        "attention_mask is int64 of shape (2, 3)",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_inputs_of_a_wrong_type_or_size_are_rejected(exports, case):
    inputs, sentence = BAD_INPUTS[case]
    encoder = load_encoder(str(exports("onnx")))
    if "pixel_values" in inputs:
        compute, argument = encoder.run_image, inputs["pixel_values"]
    else:
        filled = {"attention_mask": np.ones(inputs["input_ids"].shape, np.int64), **inputs}
        argument = {name: value for name, value in filled.items() if value is not None}
        compute = encoder.run_text
    with pytest.raises(ValueError, match=re.escape(sentence)):
        compute(argument)
