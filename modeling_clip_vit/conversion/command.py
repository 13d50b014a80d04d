"""The command `clip-vit convert`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser
from safetensors.torch import save_file
from transformers import AutoConfig, AutoProcessor

from ..hub.sentence_transformers import write_sentence_transformers_files
from ..modeling_clip_vit import ClipVitModel
from ..pretrained import load_whole
from . import open_clip
from .hf_clip import from_hf_clip, to_hf_clip
from .hf_siglip import from_hf_siglip, to_hf_siglip
from .verify import verify
from .weights import ConversionError

#: Kind of checkpoint -> how to read one, and how to make one of ours.
READERS: dict[str, Callable[[str], ClipVitModel]] = {
    "clip_vit": lambda source: load_whole(ClipVitModel, source),
    "hf_clip": from_hf_clip,
    "hf_siglip": from_hf_siglip,
    "open_clip": open_clip.from_open_clip,
}
WRITERS: dict[str, Callable[[ClipVitModel], Any]] = {
    "clip_vit": lambda model: model,
    "hf_clip": to_hf_clip,
    "hf_siglip": to_hf_siglip,
    "open_clip": open_clip.to_open_clip,
}
#: `model_type` of a Transformers checkpoint -> its kind.
KINDS = {"clip_vit": "clip_vit", "clip": "hf_clip", "siglip": "hf_siglip"}


def run_convert(arguments: list[str]) -> int:
    """Convert a checkpoint, check that both compute the same, and only then write."""
    options = build_parser().parse_args(arguments)
    target = Path(options.target)
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise ConversionError(f"{options.target!r} exists and is not an empty folder")
    kind = kind_of(options.source)
    ours = READERS[kind](options.source).eval()
    converted = WRITERS[options.to](ours)
    differences = verify(load_source(options.source, kind, ours), converted, ours.config)
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        write(partial, options.source, kind, options.to, ours, converted)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    largest = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    print(
        f"{options.source} ({kind}) is now {target} ({options.to}); largest differences: {largest}"
    )
    return 0


def build_parser() -> ArgumentParser:
    """The arguments of `clip-vit convert`."""
    parser = ArgumentParser(
        prog="clip-vit convert",
        description="Convert a CLIP between implementations; nothing is written unless both "
        "compute the same.",
    )
    parser.add_argument("source", type=str, help="a checkpoint folder, or its name on the Hub")
    parser.add_argument("target", type=str, help="a folder that is not there yet, or empty")
    parser.add_argument("--to", choices=list(WRITERS), default="clip_vit", help="what to write")
    return parser


def kind_of(source: str) -> str:
    """Which implementation a checkpoint is of.

    Raises:
        ConversionError: none that this knows.
    """
    folder = Path(source)
    if (folder / "open_clip_config.json").is_file():
        return "open_clip"
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise ConversionError(f"{source!r} has neither config.json nor open_clip_config.json")
    if not folder.is_dir() and (folder.exists() or source.count("/") != 1 or source[0] in "./~"):
        raise ConversionError(f"no checkpoint folder {source!r} (looked in {Path.cwd()})")
    model_type = AutoConfig.from_pretrained(source).model_type
    if model_type not in KINDS:
        raise ConversionError(
            f"{source!r} holds a model of type {model_type!r}: it must be one of "
            f"{', '.join(KINDS)}, or of open_clip"
        )
    return KINDS[model_type]


def load_source(source: str, kind: str, ours: ClipVitModel):
    """The source as its own implementation loads it."""
    if kind == "clip_vit":
        return ours
    if kind == "open_clip":
        return open_clip.load(source)
    from transformers import AutoModel

    return AutoModel.from_pretrained(source)


def write(partial: Path, source: str, kind: str, to: str, ours: ClipVitModel, converted):
    """Write model, and processor where the source has one."""
    partial.mkdir(parents=True)
    if to == "open_clip":
        config = {"model_cfg": open_clip.model_arguments(ours.config), "preprocess_cfg": {}}
        text = json.dumps(config, indent=2) + "\n"
        (partial / "open_clip_config.json").write_text(text)
        state = {key: value.contiguous() for key, value in converted.state_dict().items()}
        save_file(state, partial / "open_clip_model.safetensors")
    else:
        converted.save_pretrained(partial)
    if kind != "open_clip" and (Path(source) / "tokenizer_config.json").is_file():
        AutoProcessor.from_pretrained(source).save_pretrained(partial)
        if to == "clip_vit":
            write_sentence_transformers_files(partial)
