"""A trained model as other implementations load it, in folders within the run's own."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import PreTrainedModel

from ..modeling_clip_vit import ClipVitForImageClassification, ClipVitModel
from ..utils.errors import UserError
from ..utils.folders import replaced_folder, write_json

#: Marks a folder that a run wrote, so that the next run may remove it.
RECORD_FILE = "conversion.json"


def check_save_as(names: Sequence[str], model: PreTrainedModel):
    """Reject implementations that cannot represent a model, before it is trained.

    Raises:
        UserError: with the reason.
    """
    if not names:
        return
    assert isinstance(model, ClipVitModel | ClipVitForImageClassification), "a run trains these"
    # Peers bring many models of Transformers and timm with them, which few runs need.
    from ..conversion.convert import check_writable, convert_to

    for name in names:
        check_writable(name)
        if name == "clip_vit":
            raise UserError("save_as='clip_vit' is not allowed: it is for other implementations")
        with torch.random.fork_rng(devices=[]):  # a run draws the same numbers without this
            convert_to(name, model, "the model")


def write_as(folder: Path, name: str) -> list[str]:
    """Convert a trained model, check it, and write it to a folder within its own.

    Args:
        folder: of the finished model, with its processor.
        name: implementation to convert to, a key of `PEERS`.

    Returns:
        The files that were written, relative to `folder`.

    Raises:
        UserError: the outputs differ, or it cannot be written.
    """
    from ..conversion.convert import convert

    conversion = convert(str(folder), name)
    with replaced_folder(folder / name) as partial:
        conversion.save(partial)
        record = {"peer": name, "differences": conversion.differences}
        write_json(partial / RECORD_FILE, record)
    print(f"{folder / name} has it for {name}; {conversion.describe_differences()}")
    return [f"{name}/{path.name}" for path in sorted((folder / name).iterdir())]


def remove_saved(folder: Path):
    """Remove what `write_as` wrote of a model that was replaced."""
    for record in folder.glob(f"*/{RECORD_FILE}"):
        shutil.rmtree(record.parent)
