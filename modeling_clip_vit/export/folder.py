"""Write an export: graphs, processor, export.json and example.py, all or nothing."""

import json
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn
from transformers.exporters import ExportedComponent, ExportedModel

from ..inference.embedding import similarity_of
from ..inference.exported import EXPORT_FILE, RUNTIMES_OF, ExportError, fingerprint
from ..inference.loading import is_quantized
from ..inference.runtimes import open_session
from ..quantization.static import has_hooks
from ..utils.folders import new_folder
from .backends import FORMATS, PRECISIONS, Inputs, check_choice, convert
from .check import compare, expect, make_cases
from .examples import write_example
from .parts import PARTS, ImagePart, Shapes, example_inputs, make_images, shapes_of

#: Packages whose versions an export notes.
PACKAGES = (
    "clip-vit",
    "torch",
    "transformers",
    "tokenizers",
    "onnx",
    "onnxruntime",
    "openvino",
    "nncf",
    "executorch",
)
#: Samples, the last of those given, that check an export.
NUM_CHECKS = 8
#: What `--part` offers -> the graphs that it makes.
PART_CHOICES = {
    "both": ("image", "text"),
    "image": ("image",),
    "text": ("text",),
    "joint": ("joint",),
}


def export_clip(
    model: Any,
    processor: Any,
    target: Path,
    format: str,
    precision: str = "fp32",
    part: str = "both",
    samples: list[Inputs] | None = None,
    num_calibration: int = 64,
) -> dict:
    """Export a CLIP, check that the graphs compute what it does, and only then write.

    Args:
        model: a CLIP of ours or of Transformers, with `get_image_features` and
            `get_text_features`; it is left in float32 and on the CPU. One whose towers NNCF has
            quantised is exported with those ranges, and checked against its own rounding.
        processor: its processor.
        target: a folder that is not there yet, or empty.
        format: a key of `FORMATS`.
        precision: `fp32`, `bf16` or `int8`.
        part: a key of `PART_CHOICES`.
        samples: real inputs as `calibration.read_samples` gives them; the last `NUM_CHECKS` check.
        num_calibration: number of samples to calibrate int8 with, the first ones.

    Returns:
        The content of export.json.

    Raises:
        ExportError: something in the choice is not allowed, or a graph differs from its source.
        ValueError: the target is not empty, or a package is not installed.
    """
    if part not in PART_CHOICES:
        raise ExportError(f"no part {part!r}: there are {', '.join(PART_CHOICES)}")
    if precision not in PRECISIONS:
        raise ExportError(f"no precision {precision!r}: there are {', '.join(PRECISIONS)}")
    samples = samples or []
    names = PART_CHOICES[part]
    if format == "executorch" and part == "both":
        names = ("image",)
    # Towers that are quantised already need nothing to be fitted to.
    check_choice(format, precision, names, bool(samples) or has_hooks(model))
    if is_quantized(model.config):
        raise ExportError(
            "the checkpoint is quantised already, and no exporter takes that: export the float "
            "checkpoint with --precision int8"
        )
    model = model.cpu().float().eval()
    shapes = shapes_of(model, processor)
    with new_folder(target) as folder:
        graphs = [
            Graph(name, PARTS[name][0](model).eval(), PARTS[name][1], shapes, format, precision)
            for name in names
        ]
        # Before anything is converted: the source must not be able to change with its graph.
        cases = [graph.make_cases(samples[-NUM_CHECKS:]) for graph in graphs]
        components = {graph.name: graph.convert(samples[:num_calibration]) for graph in graphs}
        ExportedModel(components, FORMATS[format].backend).save_pretrained(folder)
        # After everything is written, so that the written files are what is checked.
        checks = {
            graph.name: graph.check(folder, *own) for graph, own in zip(graphs, cases, strict=True)
        }
        write_processor(processor, folder, shapes)
        example = names[0] if len(names) == 1 else "both"
        (folder / "example.py").write_text(write_example(format, example), encoding="utf-8")
        fields = {"format": format, "precision": precision, "checks": checks}
        return write_manifest(folder, {**fields, **describe(model, processor, shapes)})


@dataclass
class Graph:
    """One graph of an export: what it is made of, and how.

    Args:
        name: a key of `PARTS`.
        module: what is exported.
        kinds: what it takes, of `image` and `text`.
        shapes: the sizes of its model.
        format, precision: as `export_clip` takes them.
    """

    name: str
    module: nn.Module
    kinds: tuple[str, ...]
    shapes: Shapes
    format: str
    precision: str

    def make_cases(self, samples: list[Inputs]) -> tuple[list[Inputs], list[Inputs]]:
        """Inputs to check the graph with, and what its source makes of them."""
        chosen = [pick(sample, self.kinds) for sample in samples]
        cases = make_cases(self.shapes, self.kinds, chosen, FORMATS[self.format].is_static)
        return cases, expect(self.module, cases)

    def convert(self, calibration: list[Inputs]) -> ExportedComponent:
        """The graph; int8 is fitted to samples, of which it takes what it needs."""
        return convert(
            self.module,
            example_inputs(self.shapes, self.kinds, FORMATS[self.format].is_static),
            self.shapes,
            self.format,
            self.precision,
            [pick(sample, self.kinds) for sample in calibration],
        )

    def check(self, folder: Path, cases: list[Inputs], expected: list[Inputs]) -> dict[str, float]:
        """Run the graph in a folder, and compare its outputs with those of its source.

        Raises:
            ExportError: they differ too much.
        """
        file = read_manifest(folder)["components"][self.name]["file"]
        session = open_session(folder / file, RUNTIMES_OF[self.format][0], self.precision)
        return compare(session, cases, expected, self.precision, self.name)


def read_manifest(folder: Path) -> dict:
    """What Transformers or `write_manifest` wrote of an export."""
    return json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))


def write_manifest(folder: Path, fields: dict) -> dict:
    """Add fields, and the checksum of every file, to what Transformers wrote of an export."""
    files = {
        file.name: fingerprint(file)
        for file in sorted(folder.iterdir())
        if file.name != EXPORT_FILE
    }
    manifest = {**read_manifest(folder), **fields, "files": files}
    (folder / EXPORT_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return manifest


def pick(sample: Inputs, kinds: tuple[str, ...]) -> Inputs:
    """Those inputs of a sample that a part takes."""
    return {
        name: value
        for name, value in sample.items()
        if ("image" if name == "pixel_values" else "text") in kinds
    }


def write_processor(processor: Any, folder: Path, shapes: Shapes):
    """Write tokenizer and image processor, with truncation and padding set in tokenizer.json.

    `tokenizers` alone then makes the same tokens as Transformers' tokenizer.
    """
    processor.save_pretrained(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise ExportError(
            f"a tokenizer of class {type(processor.tokenizer).__name__} has no tokenizer.json, "
            "which an export needs"
        )
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.enable_truncation(shapes.max_text_length)
    tokenizer.enable_padding(
        pad_id=processor.tokenizer.pad_token_id,
        pad_token=processor.tokenizer.pad_token,
        direction=processor.tokenizer.padding_side,
        # Without a mask, padding is part of a text, which was trained at its full length.
        length=None if shapes.has_mask else shapes.max_text_length,
    )
    tokenizer.save(str(path))


def describe(model: Any, processor: Any, shapes: Shapes) -> dict[str, Any]:
    """What a user of an export must know of its model."""
    images = processor.image_processor
    with torch.no_grad():
        embeds = ImagePart(model)(**make_images(shapes, 1))["image_embeds"]
    scale, bias = similarity_of(model)
    return {
        "model_type": model.config.model_type,
        "embedding_size": embeds.shape[1],
        "image_size": shapes.image_size,
        "num_channels": shapes.num_channels,
        "crops_images": bool(getattr(images, "do_center_crop", False)),
        "resample": int(images.resample),
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "max_text_length": shapes.max_text_length,
        "vocab_size": shapes.vocab_size,
        "text_inputs": ["input_ids", "attention_mask"] if shapes.has_mask else ["input_ids"],
        "logit_scale": scale,
        "logit_bias": bias,
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """The versions of the packages that took part, as far as they are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
