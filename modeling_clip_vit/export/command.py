"""The command `clip-vit export`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..conversion.published import local_checkpoint
from ..conversion.sources import repository_of
from ..inference.loading import load_clip
from ..runtimes import exporting_runtimes
from ..utils.command_line import CommandParser
from ..utils.errors import UserError
from ..utils.folders import check_new
from .choice import choose_parts, choose_runtime
from .folder import NUM_CHECKS, export_clip
from .parts import shapes_of
from .samples import read_calibration_samples


def run_export(arguments: list[str]) -> int:
    """Export a checkpoint; nothing is written unless the outputs of the graphs match its own."""
    options = build_parser().parse(arguments, ExportOptions)
    target = Path(options.target)
    # Before the model is loaded and data is read.
    check_new(target)
    if options.num_calibration < 1:
        raise UserError(f"--num_calibration is {options.num_calibration}, and must be at least 1")
    parts = choose_parts(options.part, options.format)
    choose_runtime(options.format, options.precision, parts, options.calibration is not None)
    model, processor = load_clip(local_checkpoint(options.checkpoint))
    samples = []
    if options.calibration is not None:
        samples = read_calibration_samples(
            options.calibration,
            processor,
            shapes_of(model, processor),
            ("image", "text") if options.part in ("both", "joint") else (options.part,),
            options.num_calibration + NUM_CHECKS,
            options.image_column,
        )
    manifest = export_clip(
        model,
        processor,
        target,
        options.format,
        options.precision,
        options.part,
        samples,
        options.num_calibration,
        base_model=repository_of(options.checkpoint),
    )
    for part, checks in manifest["checks"].items():
        figures = [f"{name.replace('_', ' ')} {value:.6g}" for name, value in checks.items()]
        print(f"{part}: {', '.join(figures)} against {options.checkpoint}")
    size = sum(file["size"] for file in manifest["files"].values())
    print(f"saved {target}: {options.format} {options.precision}, {size / 1e6:.1f} MB")
    return 0


@dataclass
class ExportOptions:
    """What to export, and how.

    Args:
        precision: number format of weights and computation: `fp32`, `bf16` or `int8`.
        part: what to export: `image` or `text` alone, `both` as two graphs, or one `joint` graph
            that returns logits.
        calibration: dataset of images and captions for int8 calibration and for the accuracy check.
        num_calibration: number of rows to calibrate with.
        image_column: column with the images of `calibration`; guessed by default.
    """

    precision: Literal["fp32", "bf16", "int8"] = "fp32"
    part: Literal["both", "image", "text", "joint"] = "both"
    calibration: str | None = None
    num_calibration: int = 64
    image_column: str | None = None


def build_parser() -> CommandParser:
    """The arguments of `clip-vit export`."""
    parser = CommandParser(
        prog="clip-vit export",
        description="Export a CLIP for another runtime. The exported model is run against the "
        "checkpoint, and nothing is written unless their outputs match.",
        example="clip-vit export outputs/emoji outputs/emoji-onnx --format onnx",
    )
    parser.add_argument(
        "checkpoint", type=str, help="checkpoint of this package or of a peer: a folder or a Hub id"
    )
    parser.add_argument("target", type=str, help="output folder; must be new or empty")
    formats = ", ".join(exporting_runtimes())
    parser.add_argument("--format", type=str, required=True, help=f"export format: {formats}")
    parser.add_class_arguments(ExportOptions)
    return parser
