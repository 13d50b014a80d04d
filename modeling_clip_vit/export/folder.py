"""Write an export: graphs, processor, export.json and example.py, all or nothing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import nn

from ..inference.embedding import similarity_of
from ..inference.exported import EXPORT_FILE, ExportError, size_and_sha256
from ..runtimes import GraphSource, Runtime, exporting_runtimes, open_session
from ..runtimes.openvino import has_hooks
from ..runtimes.runtime import IMAGE_INPUTS, Inputs
from ..utils.folders import new_folder, write_json
from ..utils.from_pretrained import is_quantized
from ..utils.versions import package_versions
from .check import compare, expect, make_cases
from .choice import choose_parts, choose_runtime
from .examples import write_example
from .parts import (
    PARTS,
    ImagePart,
    Shapes,
    dynamic_shapes,
    example_inputs,
    make_images,
    shapes_of,
)

#: Packages whose versions every export notes, besides those of its runtime.
PACKAGES = ("clip-vit", "torch", "transformers", "tokenizers")
#: Number of samples, the last ones, that check an export.
NUM_CHECKS = 8


def export_clip(
    model: Any,
    processor: Any,
    target: Path,
    format: str,
    precision: str = "fp32",
    part: str = "both",
    samples: list[Inputs] | None = None,
    num_calibration: int = 64,
    base_model: str = "",
) -> dict:
    """Export a CLIP, check that the graphs compute what it does, and only then write.

    Args:
        model: a CLIP of ours or of Transformers, with `get_image_features` and
            `get_text_features`; it is left in float32 and on the CPU. If NNCF has quantised its
            towers, it is exported with those ranges and compared with its own fake quantisation.
        processor: its processor.
        target: a folder that does not exist yet, or is empty.
        format: of one of the `runtimes`.
        precision: `fp32`, `bf16` or `int8`.
        part: a key of `choice.PART_CHOICES`.
        samples: real inputs, as `read_calibration_samples` returns them; the last `NUM_CHECKS` are
            used for the check.
        num_calibration: number of samples to calibrate int8 with, the first ones.
        base_model: id on the Hub of what is exported, for the card; empty for none.

    Returns:
        The content of export.json.

    Raises:
        ExportError: something in the choice is not allowed, or a graph differs from its source.
        UserError: the target is not empty, or a package is not installed.
    """
    samples = samples or []
    names = choose_parts(part, format)
    # Towers that are quantised already need no calibration data.
    runtime = choose_runtime(format, precision, names, bool(samples) or has_hooks(model))
    if is_quantized(model.config):
        raise ExportError(
            "the checkpoint is quantised already, and no exporter takes that: export the float "
            "checkpoint with --precision int8"
        )
    model = model.cpu().float().eval()
    shapes = shapes_of(model, processor)
    check_takes_images(runtime, shapes)
    with new_folder(target) as folder:
        graphs = [
            Graph(name, PARTS[name][0](model).eval(), PARTS[name][1], shapes, runtime, precision)
            for name in names
        ]
        # Before anything is converted: the source must not be able to change with its graph.
        cases = [graph.make_cases(samples[-NUM_CHECKS:]) for graph in graphs]
        programs = {graph.name: graph.convert(samples[:num_calibration]) for graph in graphs}
        fields = runtime.save(programs, folder)
        # After everything is written, so that the written files are what is checked.
        checks = {
            graph.name: graph.check(folder / fields["components"][graph.name]["file"], *case)
            for graph, case in zip(graphs, cases, strict=True)
        }
        write_processor(processor, folder, shapes)
        if runtime.example_run:
            part_name = names[0] if len(names) == 1 else "both"
            example = write_example(runtime, part_name, bool(shapes.max_patches))
            (folder / "example.py").write_text(example, encoding="utf-8")
        fields |= {"format": format, "precision": precision, "checks": checks}
        if base_model:
            fields["base_model"] = base_model
        fields |= describe(model, processor, shapes)
        fields["versions"] = package_versions(
            *PACKAGES, *runtime.export_packages, *runtime.packages, *runtime.int8_packages
        )
        return write_manifest(folder, fields)


def check_takes_images(runtime: Runtime, shapes: Shapes):
    """Reject a runtime that takes squares alone where a model has other images.

    Raises:
        ExportError: it does.
    """
    if shapes.max_patches and not runtime.takes_patches:
        formats = [name for name, one in exporting_runtimes().items() if one.takes_patches]
        raise ExportError(
            f"--format {runtime.format} takes squares, and this checkpoint images in their own "
            f"aspect ratio (image_seq_lens): use {', '.join(formats)}"
        )


@dataclass
class Graph:
    """One graph of an export.

    Args:
        name: a key of `PARTS`.
        module: what is exported.
        kinds: what it takes, `image`, `text` or both.
        shapes: the sizes of its model.
        runtime: what it is exported for.
        precision: as `export_clip` takes it.
    """

    name: str
    module: nn.Module
    kinds: tuple[str, ...]
    shapes: Shapes
    runtime: Runtime
    precision: str

    def make_cases(self, samples: list[Inputs]) -> tuple[list[Inputs], list[Inputs]]:
        """Inputs to check the graph with, and the outputs of its source."""
        chosen = [pick(sample, self.kinds) for sample in samples]
        cases = make_cases(self.shapes, self.kinds, chosen, self.runtime.is_static)
        return cases, expect(self.module, cases)

    def convert(self, samples: list[Inputs]) -> Any:
        """The graph; int8 is calibrated with samples, of which it takes the inputs it needs."""
        is_static = self.runtime.is_static
        inputs = example_inputs(self.shapes, self.kinds, is_static)
        source = GraphSource(
            module=self.module,
            inputs=inputs,
            dynamic_shapes=None if is_static else dynamic_shapes(self.shapes, inputs),
            precision=self.precision,
            samples=[pick(sample, self.kinds) for sample in samples],
        )
        return self.runtime.convert(source)

    def check(self, file: Path, cases: list[Inputs], expected: list[Inputs]) -> dict[str, float]:
        """Run the graph in a file, and compare its outputs with those of its source.

        Raises:
            ExportError: they differ too much.
        """
        session = open_session(file, self.runtime.name, self.precision)
        return compare(session, cases, expected, self.precision, self.name)


def write_manifest(folder: Path, fields: dict) -> dict:
    """Write export.json: fields, and the size and checksum of every other file."""
    files = {
        file.name: size_and_sha256(file)
        for file in sorted(folder.iterdir())
        if file.name != EXPORT_FILE
    }
    manifest = {**fields, "files": files}
    write_json(folder / EXPORT_FILE, manifest)
    return manifest


def pick(sample: Inputs, kinds: tuple[str, ...]) -> Inputs:
    """The inputs of a sample that a part takes."""
    return {
        name: value
        for name, value in sample.items()
        if ("image" if name in IMAGE_INPUTS else "text") in kinds
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
    """What a user of an export must know about its model."""
    images = processor.image_processor
    with torch.no_grad():
        embeds = ImagePart(model)(**make_images(shapes, 1))["image_embeds"]
    scale, bias = similarity_of(model)
    return {
        "model_type": model.config.model_type,
        "embedding_size": embeds.shape[1],
        "image_size": shapes.image_size,
        "num_channels": shapes.num_channels,
        "patch_size": getattr(model.config.vision_config, "patch_size", None),
        "image_inputs": list(shapes.image_inputs),
        "max_num_patches": shapes.max_patches or None,
        "crops_images": bool(getattr(images, "do_center_crop", False)),
        "resample": int(images.resample),
        "image_mean": list(images.image_mean),
        "image_std": list(images.image_std),
        "max_text_length": shapes.max_text_length,
        "vocab_size": shapes.vocab_size,
        "text_inputs": ["input_ids", "attention_mask"] if shapes.has_mask else ["input_ids"],
        "logit_scale": scale,
        "logit_bias": bias,
    }
