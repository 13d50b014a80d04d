"""Load a CLIP and its processor from a folder or the Hub."""

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModel, AutoProcessor, CLIPModel, CLIPProcessor

from ..data.sources import first_line
from ..modeling_clip_vit import ClipVitModel
from ..pretrained import load_whole


class LoadError(ValueError):
    """A checkpoint that cannot be used; the message is one clear sentence."""


def load_clip(path: str) -> tuple[ClipVitModel | CLIPModel, CLIPProcessor]:
    """A model with `get_image_features` and `get_text_features`, ready to embed, and its processor.

    Any CLIP-like checkpoint of Transformers will do. Code that a checkpoint carries is not run.

    Raises:
        LoadError: there is no checkpoint, it is incomplete, or its model cannot embed both images
            and texts.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir() and (folder.exists() or path.count("/") != 1 or path[0] in "./~"):
        raise LoadError(f"no checkpoint folder {path!r} (looked in {Path.cwd()})")
    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise LoadError(f"{path!r} is not a checkpoint: {first_line(error)}") from error
    try:
        model = load_whole(AutoModel, path, trust_remote_code=False)
        processor = AutoProcessor.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        raise LoadError(f"cannot load the checkpoint {path!r}: {first_line(error)}") from error
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise LoadError(
            f"{path!r} holds a model of type {config.model_type!r}, which does not embed images "
            "and texts: give a clip_vit checkpoint"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.eval().to(device), processor
