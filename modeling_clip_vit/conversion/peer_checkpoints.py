"""Checkpoints of other implementations: a folder, a file in it, or a name on the Hub."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from ..pretrained import load_with_report, refuse_misfits
from ..utils.from_pretrained import find_checkpoint, loading
from .weights import ConversionError

#: How a peer's model may be given instead of the model itself.
Checkpoint = str | Path


def folder_of(source: Checkpoint) -> str:
    """Where a checkpoint's configuration is: its folder, or its name on the Hub."""
    path = Path(source).expanduser()
    return str(path.parent) if path.is_file() else find_checkpoint(str(source))


@contextmanager
def tensors_only(source: Checkpoint) -> Iterator[None]:
    """Turn the refusal of a pickle that holds more than tensors into one sentence.

    Raises:
        ConversionError: a file of the checkpoint could run code when it is loaded.
    """
    try:
        yield
    except (UnpicklingError, RuntimeError) as error:
        # timm wraps it in an error of its own.
        if not any(isinstance(one, UnpicklingError) for one in (error, error.__cause__)):
            raise
        raise ConversionError(
            f"{str(source)!r} is a pickle that holds more than tensors, and loading it could run "
            "code: ask for the weights as safetensors"
        ) from error


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a file of safetensors, or of a pickle that holds nothing else.

    Raises:
        ConversionError: it is a pickle of something else.
    """
    if path.suffix == ".safetensors":
        return load_file(path)
    with tensors_only(path):
        state = torch.load(path, map_location="cpu", weights_only=True)
    return state.get("state_dict", state)


def model_of(model_class: type[PreTrainedModel], source: Any, left_out: str = "") -> Any:
    """A model of Transformers: the source itself, or what its checkpoint holds.

    Raises:
        ValueError: as `load_transformers`.
    """
    if isinstance(source, model_class):
        return source
    return load_transformers(model_class, source, left_out)


def load_transformers(model_class: Any, source: Checkpoint, left_out: str = "") -> Any:
    """A model of Transformers from its checkpoint, with every weight of it.

    Args:
        model_class: the class of the model, of `PreTrainedModel`.
        source: a folder, a file of weights in a folder with its config.json, or a name on the Hub.
        left_out: what the names of weights begin with that the checkpoint may have besides.

    Raises:
        ValueError: the checkpoint lacks weights or has unexpected ones; the message names them.
        ConversionError: a pickle holds more than tensors.
    """
    path = Path(source).expanduser()
    kwargs: dict[str, Any] = {}
    with loading(str(source)):
        if path.is_file():
            config = model_class.config_class.from_pretrained(path.parent)
            kwargs = {"config": config, "state_dict": read_weights(path)}
        place = None if kwargs else find_checkpoint(str(source))
        with tensors_only(source):
            model, report = load_with_report(model_class, place, **kwargs)
        report["unexpected_keys"] = {
            key for key in report["unexpected_keys"] if not left_out or not key.startswith(left_out)
        }
        refuse_misfits(str(source), model, report)
    return model.eval()
