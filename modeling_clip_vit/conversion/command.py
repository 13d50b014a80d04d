"""The command `clip-vit convert`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..hub.sentence_transformers import write_sentence_transformers_files
from ..modeling_clip_vit import ClipVitModel
from ..utils.command_line import CommandParser
from ..utils.errors import UserError
from ..utils.folders import check_new, new_folder
from ..utils.from_pretrained import load_processor
from .peer_checkpoints import folder_of
from .peers import PEERS, Ours, find_peer
from .verify import is_tower, verify
from .weights import ConversionError


def run_convert(arguments: list[str]) -> int:
    """Convert a checkpoint, check that both compute the same, and only then write."""
    options = build_parser().parse(arguments)
    target = Path(options.target)
    check_new(target)
    writable = [name for name, peer in PEERS.items() if peer.to_peer]
    if options.to not in writable:
        raise UserError(f"to={options.to!r} is not allowed: choose from {', '.join(writable)}")
    kind = find_peer(options.source)
    source = PEERS[kind].load(options.source)
    ours = PEERS[kind].from_peer(source).eval()
    converted = convert_to(options.to, ours, options.source)
    differences = check(source, ours, converted)
    with new_folder(target) as folder:
        PEERS[options.to].save(converted, folder, ours.config)
        if isinstance(ours, ClipVitModel) and not PEERS[options.to].is_tower:
            copy_processor(options.source, folder, options.to)
    largest = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(
        f"{options.source} ({kind}) is now {target} ({options.to}); largest differences: "
        f"{largest or 'none'}"
    )
    return 0


@dataclass
class ConvertOptions:
    """What to convert to.

    Args:
        to: implementation to convert to: clip_vit, hf_clip, hf_siglip, open_clip or timm, which
            receives the image tower only.
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


def convert_to(name: str, ours: Ours, source: str) -> Any:
    """Convert one of our models to another implementation.

    Raises:
        ConversionError: the other implementation cannot represent it.
    """
    peer = PEERS[name]
    if not isinstance(ours, ClipVitModel) and not peer.is_tower and name != "clip_vit":
        raise ConversionError(f"{source!r} is an image tower alone, and {name} has two towers")
    assert peer.to_peer is not None, "run_convert rejects what cannot be written"
    return peer.to_peer(ours)


def check(source: Any, ours: Ours, converted: Any) -> dict[str, float]:
    """The largest differences between a source and what was made of it.

    Raises:
        ConversionError: they are larger than float32 explains.
    """
    if converted is source:
        return {}
    if isinstance(ours, ClipVitModel) and is_tower(converted):
        # An image tower has no texts, so both towers are first compared between source and ours.
        before = {} if source is ours else verify(source, ours, ours.config)
        return {**before, **verify(ours, converted, ours.config)}
    return verify(source, converted, ours.config)


def copy_processor(source: str, folder: Path, to: str):
    """Write the source's tokenizer and image processor next to the weights, if it has them."""
    place = folder_of(source)
    if (Path(place) / "tokenizer_config.json").is_file():
        load_processor(place).save_pretrained(folder)
        if to == "clip_vit":
            write_sentence_transformers_files(folder)
