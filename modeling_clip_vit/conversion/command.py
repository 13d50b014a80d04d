"""The command `clip-vit convert`."""

from dataclasses import dataclass
from pathlib import Path

from ..utils.command_line import CommandParser
from ..utils.folders import check_new, new_folder
from .convert import convert
from .peers import PEERS
from .sources import find_source


def run_convert(arguments: list[str]) -> int:
    """Convert a checkpoint, and say how far the outputs of source and result are apart."""
    options = build_parser().parse(arguments)
    target = Path(options.target)
    check_new(target)
    source = find_source(options.source)
    if source is not None:
        source.fetch_weights()
    conversion = convert(options.source if source is None else str(source.path), options.to)
    with new_folder(target) as folder:
        conversion.save(folder)
    print(
        f"{options.source} ({conversion.peer}) is now {target} ({options.to}); "
        f"{conversion.describe_differences()}"
    )
    return 0


@dataclass
class ConvertOptions:
    """What to convert to.

    Args:
        to: implementation to convert to: clip_vit, a two-tower model of Transformers (hf_clip,
            hf_siglip, ...), open_clip, or timm, which receives the image tower only.
    """

    to: str = "clip_vit"


def build_parser() -> CommandParser:
    """The arguments of `clip-vit convert`."""
    parser = CommandParser(
        prog="clip-vit convert",
        description="Convert a CLIP or its image tower between implementations. Source and result "
        "are run on the same inputs, and nothing is written unless their outputs match. Supported "
        f"sources: {', '.join(PEERS)}.",
        example="clip-vit convert openai/clip-vit-base-patch32 my_clip",
    )
    parser.add_argument(
        "source", type=str, help="checkpoint: a folder, a weights file in one, or a Hub id"
    )
    parser.add_argument("target", type=str, help="output folder; must be new or empty")
    parser.add_class_arguments(ConvertOptions)
    return parser
