"""The command `clip-vit filter`."""

from pathlib import Path

from ..conversion.published import local_checkpoint
from ..inference.loading import load_encoder
from ..runtimes import RUNTIMES
from ..utils.command_line import CommandParser, build_options
from .filter import filter_dataset
from .options import FilterOptions
from .writing import describe_counts


def run_filter(arguments: list[str]) -> int:
    """Write the rows of a dataset that meet conditions, and print what was dropped and why."""
    parsed = build_parser().parse(arguments, FilterOptions)
    options = build_options(parsed, FilterOptions)
    encoder = None
    if parsed.checkpoint != "none":
        encoder = load_encoder(local_checkpoint(parsed.checkpoint), parsed.runtime)
    record = {"checkpoint": parsed.checkpoint}
    codes = filter_dataset(encoder, parsed.dataset, Path(parsed.output), options, record)
    print(describe_counts(codes))
    print(f"{parsed.output} is the new dataset; {parsed.output}/dropped.csv lists the other rows")
    return 0


def build_parser() -> CommandParser:
    """The arguments of `clip-vit filter`."""
    parser = CommandParser(
        prog="clip-vit filter",
        description="Choose training data: keep the rows of a dataset whose image and caption "
        "match, that are no duplicates and meet other conditions; list the others with the reason.",
        example="clip-vit filter outputs/emoji photos kept --keep_share 0.8 --min_side 64 "
        "--drop_duplicates true",
    )
    parser.add_argument(
        "checkpoint",
        type=str,
        help="checkpoint of any peer, or exported model, that scores the pairs: a folder or a Hub "
        "id; none to score nothing",
    )
    parser.add_argument(
        "dataset",
        type=str,
        help="a folder, a file, a glob pattern or a URL, or a dataset id on the Hub",
    )
    parser.add_argument("output", type=str, help="new folder for the kept rows and dropped.csv")
    parser.add_class_arguments(FilterOptions)
    parser.add_argument(
        "--runtime",
        type=str,
        default="auto",
        help=f"runtime for an exported model: {', '.join(RUNTIMES)}; auto picks by format",
    )
    return parser
