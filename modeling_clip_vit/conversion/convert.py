"""Load a checkpoint of any peer, convert it, and check the result before it is written."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..configuration_clip_vit import is_foreign
from ..hub.sentence_transformers import write_sentence_transformers_files
from ..modeling_clip_vit import ClipVitModel
from ..utils.errors import UserError
from .peer_checkpoints import folder_of
from .peers import PEERS, Ours, find_peer
from .processors import write_open_clip_processor, write_timm_processor
from .verify import is_tower, verify
from .weights import ConversionError


@dataclass(frozen=True)
class Conversion:
    """A model that was converted and checked, but not written yet.

    Args:
        source: its checkpoint.
        peer: implementation of the source, a key of `PEERS`.
        to: implementation that it was converted to, another key.
        ours: the model as one of ours.
        converted: the model as it is written.
        differences: largest difference of each output between source and result.
        processor: what prepares the inputs of the source; None where its folder does not say.
        pixel_levels: largest difference of a pixel, of 255 levels, between what the source's own
            transform and the processor make of the same pictures; None where that is not compared.
    """

    source: str
    peer: str
    to: str
    ours: Ours
    converted: Any
    differences: dict[str, float]
    processor: Any = None
    pixel_levels: float | None = None

    def save(self, folder: Path):
        """Write the model, with the source's processor, into a folder that is there."""
        PEERS[self.to].save(self.converted, folder, self.ours.config)
        if self.processor is not None:
            save_processor(self.processor, folder, self.to)

    def describe_differences(self) -> str:
        """The differences in words."""
        listed = [f"{name} {value:.1e}" for name, value in self.differences.items()]
        if self.pixel_levels is not None:
            listed.append(f"pixels {self.pixel_levels:.0f} of 255 levels")
        return f"largest differences: {', '.join(listed) or 'none'}"


def convert(source: str, to: str = "clip_vit") -> Conversion:
    """Load a checkpoint, convert it, and check the result.

    Args:
        source: a folder, a file of weights in one, or the id of a model on the Hub.
        to: implementation to convert to, a key of `PEERS`.

    Raises:
        UserError: there is no such checkpoint, or it cannot be converted without loss.
    """
    check_writable(to)
    peer = find_peer(source)
    theirs = PEERS[peer].load(source)
    ours = PEERS[peer].from_peer(theirs).eval()
    folder, levels = Path(folder_of(source)), None
    processor, compare_inputs = PEERS[peer].processor(theirs, folder), PEERS[peer].compare_inputs
    is_native = hasattr(getattr(processor, "image_processor", None), "max_num_patches")
    is_foreign_tower = is_foreign(getattr(ours, "vision_model", ours).config)
    if is_native and to != peer and not is_foreign_tower and not PEERS[to].takes_patches:
        raise ConversionError(
            f"{source!r} takes images in their own aspect ratio (image_seq_lens), and the "
            f"processors of {to} cut out squares: convert it to hf_siglip2, or save it with a "
            "CLIPImageProcessor first"
        )
    converted = convert_to(to, ours, source)
    differences = check(theirs, ours, converted)
    if processor is not None and compare_inputs is not None:
        levels = compare_inputs(theirs, processor, folder)
    return Conversion(source, peer, to, ours, converted, differences, processor, levels)


def check_writable(to: str):
    """Reject an implementation that nothing is converted to.

    Raises:
        UserError: with those that there are.
    """
    writable = [name for name, peer in PEERS.items() if peer.to_peer]
    if to not in writable:
        raise UserError(f"to={to!r} is not allowed: choose from {', '.join(writable)}")


def convert_to(name: str, ours: Ours, source: str) -> Any:
    """Convert one of our models to another implementation.

    Raises:
        ConversionError: the other implementation cannot represent it.
    """
    peer = PEERS[name]
    if not isinstance(ours, ClipVitModel) and not peer.is_tower and name != "clip_vit":
        raise ConversionError(f"{source!r} is an image tower alone, and {name} has two towers")
    assert peer.to_peer is not None, "check_writable rejects what cannot be written"
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


def save_processor(processor: Any, folder: Path, to: str):
    """Write a tokenizer and an image processor next to the weights, as far as these have inputs.

    Args:
        processor: of the source; an image processor alone for an image tower.
        folder: with the converted model.
        to: its implementation, a key of `PEERS`.
    """
    if to == "open_clip":
        write_open_clip_processor(processor, folder)
    elif to == "timm":
        write_timm_processor(getattr(processor, "image_processor", processor), folder)
    elif not PEERS[to].is_tower:
        processor.save_pretrained(folder)
    if to == "clip_vit" and hasattr(processor, "tokenizer"):
        write_sentence_transformers_files(folder)
