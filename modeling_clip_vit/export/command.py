"""The command `clip-vit export`."""

from pathlib import Path

from jsonargparse import ArgumentParser

from ..inference.loading import load_clip
from ..utils.errors import UserError
from ..utils.folders import check_new
from .backends import FORMATS, PRECISIONS, check_choice
from .calibration import read_samples
from .folder import NUM_CHECKS, PART_CHOICES, export_clip
from .parts import shapes_of


def run_export(arguments: list[str]) -> int:
    """Export a checkpoint; nothing is written unless the graphs compute what it does."""
    options = build_parser().parse_args(arguments)
    target = Path(options.target)
    # Before the model is loaded, and data is read.
    check_new(target)
    if options.num_calibration < 1:
        raise UserError(f"--num_calibration is {options.num_calibration}, and must be at least 1")
    check_choice(options.format, options.precision, (), options.calibration is not None)
    model, processor = load_clip(options.checkpoint)
    samples = []
    if options.calibration is not None:
        samples = read_samples(
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
    )
    for part, found in manifest["checks"].items():
        told = ", ".join(f"{name.replace('_', ' ')} {value:.6g}" for name, value in found.items())
        print(f"{part}: {told} against {options.checkpoint}")
    size = sum(file["size"] for file in manifest["files"].values())
    print(f"saved {target}: {options.format} {options.precision}, {size / 1e6:.1f} MB")
    return 0


def build_parser() -> ArgumentParser:
    """The arguments of `clip-vit export`."""
    parser = ArgumentParser(
        prog="clip-vit export",
        description="Export a CLIP for another runtime; nothing is written unless the graphs "
        "compute what the checkpoint does.",
    )
    parser.add_argument("checkpoint", type=str, help="a folder or the id of a model on the Hub")
    parser.add_argument("target", type=str, help="a folder that is not there yet, or empty")
    parser.add_argument("--format", type=str, required=True, help=f"one of {', '.join(FORMATS)}")
    parser.add_argument(
        "--precision", choices=PRECISIONS, default="fp32", help="of weights and computation"
    )
    parser.add_argument(
        "--part",
        choices=list(PART_CHOICES),
        default="both",
        help="both: an image and a text graph; joint: one graph of both, with logits",
    )
    parser.add_argument(
        "--calibration",
        type=str,
        help="a data set of images and captions that int8 is fitted to and checked with",
    )
    parser.add_argument("--num_calibration", type=int, default=64, help="how many of its rows")
    parser.add_argument("--image_column", type=str, help="of that data set; as its type tells")
    return parser
