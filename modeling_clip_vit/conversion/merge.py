"""The command `clip-vit merge`: one model between two of the same architecture."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, PreTrainedModel

from ..hub.sentence_transformers import write_sentence_transformers_files
from ..modeling_clip_vit import ClipVitModel
from ..pretrained import abbreviate_names
from ..utils.command_line import CommandParser
from ..utils.errors import UserError
from ..utils.folders import check_new, new_folder
from ..utils.from_pretrained import load_model, load_processor
from ..utils.interpolation import interpolate
from .published import local_checkpoint
from .weights import ConversionError

#: Parts of the names of configuration fields that change nothing in a trained model's outputs.
WITHOUT_EFFECT = ("drop", "init", "dtype", "version", "auto_map", "architectures", "name_or_path")


def run_merge(arguments: list[str]) -> int:
    """Merge two checkpoints, and write the model with the processor of the second."""
    options = build_parser().parse(arguments)
    target = Path(options.target)
    check_new(target)
    paths = [local_checkpoint(path) for path in (options.first, options.second)]
    first, second = (load_model(AutoModel, path) for path in paths)
    processors = [load_processor(path) for path in paths]
    if processors[0].tokenizer.get_vocab() != processors[1].tokenizer.get_vocab():
        raise ConversionError(
            f"{options.first!r} and {options.second!r} use different vocabularies, so the same "
            "text would be encoded differently"
        )
    merge(first, second, options.alpha)
    with new_folder(target) as partial:
        first.save_pretrained(partial)
        processors[1].save_pretrained(partial)
        if isinstance(first, ClipVitModel):
            write_sentence_transformers_files(partial)
    share = f"{1 - options.alpha:g} of {options.first} and {options.alpha:g} of {options.second}"
    print(f"{target} is {share}")
    return 0


@dataclass
class MergeOptions:
    """How to average.

    Args:
        alpha: weight of the second checkpoint, from 0 to 1.
    """

    alpha: float = 0.5


def build_parser() -> CommandParser:
    """The arguments of `clip-vit merge`."""
    parser = CommandParser(
        prog="clip-vit merge",
        description="Average the weights of two checkpoints of the same architecture, for example "
        "before and after fine-tuning, to keep what the model was good at before (WiSE-FT).",
        example="clip-vit merge my_clip my_clip_fine_tuned my_clip_merged --alpha 0.5",
    )
    parser.add_argument(
        "first", type=str, help="checkpoint of this package or of a peer: a folder or a Hub id"
    )
    parser.add_argument("second", type=str, help="another checkpoint of the same architecture")
    parser.add_argument("target", type=str, help="output folder; must be new or empty")
    parser.add_class_arguments(MergeOptions)
    return parser


@torch.no_grad()
def merge(first: PreTrainedModel, second: PreTrainedModel, alpha: float):
    """Move the weights of the first model to `(1 - alpha) * first + alpha * second`.

    As in Wortsman et al. (2022, "Robust fine-tuning of zero-shot models", equation 1).

    Raises:
        ConversionError: the architectures differ; what differs is named.
        ValueError: alpha is not from 0 to 1.
    """
    if not 0 <= alpha <= 1:
        raise UserError(f"alpha={alpha} is not allowed: it must be from 0 to 1")
    ours, theirs = first.state_dict(), second.state_dict()
    apart = [name for name in {*ours, *theirs} if shape_of(ours, name) != shape_of(theirs, name)]
    if apart:
        listed = [f"{n} {shape_of(ours, n)} and {shape_of(theirs, n)}" for n in sorted(apart)]
        raise ConversionError(
            f"the models cannot be merged: they differ in {abbreviate_names(listed)}"
        )
    left, right = flat_fields(first.config.to_dict()), flat_fields(second.config.to_dict())
    fields = [name for name in {*left, *right} if left.get(name) != right.get(name)]
    if fields:
        listed = [f"{n} {left.get(n)!r} and {right.get(n)!r}" for n in sorted(fields)]
        raise ConversionError(
            f"the models cannot be merged: they differ in {abbreviate_names(listed)}"
        )
    first.load_state_dict(interpolate(ours, theirs, alpha))


def shape_of(state: dict[str, torch.Tensor], name: str) -> str:
    """The shape of a tensor in words."""
    return str(tuple(state[name].shape)) if name in state else "missing"


def flat_fields(config: dict[str, Any], before: str = "") -> dict[str, Any]:
    """The fields of a configuration, nested ones included, that affect what a model computes."""
    fields: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("_config"):
            fields |= flat_fields(value, f"{before}{name}.")
        elif not any(part in name for part in WITHOUT_EFFECT):
            fields[before + name] = value
    return fields
