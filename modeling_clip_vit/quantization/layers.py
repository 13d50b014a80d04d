"""Which layers of a model are quantised."""

from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..pretrained import abbreviate_names
from ..utils.errors import UserError
from .options import DEFAULT_SKIP


class QuantizationError(UserError):
    """A model that cannot be quantised as asked for; the message is one clear sentence."""


def choose_layers(
    model: nn.Module, skip: Sequence[str] = DEFAULT_SKIP, embeddings: bool = False
) -> list[str]:
    """The names of the layers to quantise: all linear ones but those that are skipped.

    Args:
        model: a joint model; not yet quantised.
        skip: names or patterns (`*` for anything) of layers that stay float.
        embeddings: whether the table of token embeddings is one of them.

    Raises:
        QuantizationError: a pattern fits no layer, a layer cannot be quantised, or none is left.
    """
    check_patterns(model, skip)
    chosen, refused = [], []
    for name, module in model.named_modules():
        if is_skipped(name, skip):
            continue
        if isinstance(module, nn.Linear):
            reason = why_not(model, name, module.weight)
            refused += [f"{name} ({reason})"] if reason else []
            chosen.append(name)
        elif isinstance(module, Conv1D):  # GPT-2's linear layer
            refused.append(f"{name} (a Conv1D)")
    if embeddings:
        chosen += token_embeddings(model)
    if refused:
        raise QuantizationError(
            f"cannot quantise {abbreviate_names(refused)}: name such layers in quantization_skip"
        )
    if not chosen:
        raise QuantizationError("no layer is left to quantise: quantization_skip names all of them")
    return chosen


def token_embeddings(model: nn.Module) -> list[str]:
    """The name of the table that the text tower looks tokens up in."""
    table = model.text_model.get_input_embeddings()  # type: ignore[union-attr, operator]
    return [name for name, module in model.named_modules() if module is table]


def why_not(model: nn.Module, name: str, weight: torch.Tensor) -> str | None:
    """What keeps a linear layer from being quantised, if anything does."""
    parent = model.get_submodule(name.rpartition(".")[0])
    if isinstance(parent, nn.MultiheadAttention):
        return "torch's attention uses its weight without calling it"
    if not weight.isfinite().all():
        return "its weight is not finite"
    return None


def is_skipped(name: str, skip: Iterable[str]) -> bool:
    """Whether a layer's name fits one of the patterns."""
    return any(fnmatchcase(name, pattern) for pattern in skip)


def check_patterns(model: nn.Module, skip: Iterable[str]):
    """Reject a pattern that matches no layer of a model, unless it is a default.

    Raises:
        QuantizationError: with the names that come closest.
    """
    names = [name for name, _ in model.named_modules() if name]
    for pattern in skip:
        if pattern in DEFAULT_SKIP or any(fnmatchcase(name, pattern) for name in names):
            continue
        close = get_close_matches(pattern, names, n=2, cutoff=0.3)
        hint = f"; did you mean {' or '.join(close)}?" if close else ""
        raise QuantizationError(f"quantization_skip: no layer is called {pattern!r}{hint}")
