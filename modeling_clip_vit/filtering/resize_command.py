"""The command `clip-vit shard`."""

from pathlib import Path

from ..utils.command_line import CommandParser, build_options
from .resize import ResizeOptions, describe_counts, resize_dataset


def run_shard(arguments: list[str]) -> int:
    """Write a dataset with smaller images, and print how many rows it has."""
    parsed = build_parser().parse(arguments, ResizeOptions)
    options = build_options(parsed, ResizeOptions)
    written, skipped = resize_dataset(parsed.dataset, Path(parsed.output), options)
    print(describe_counts(written, skipped))
    print(f"{parsed.output} is the new dataset; {parsed.output}/skipped.csv lists the other rows")
    return 0


def build_parser() -> CommandParser:
    """The arguments of `clip-vit shard`."""
    parser = CommandParser(
        prog="clip-vit shard",
        description="Resize the images of a dataset once, so that training decodes small ones: "
        "write it as Parquet files with all of its columns.",
        example="clip-vit shard photos photos_256 --size 256",
    )
    parser.add_argument(
        "dataset",
        type=str,
        help="a folder, a file, a glob pattern or a URL, or a dataset id on the Hub",
    )
    parser.add_argument("output", type=str, help="new folder for the resized dataset")
    parser.add_class_arguments(ResizeOptions)
    return parser
