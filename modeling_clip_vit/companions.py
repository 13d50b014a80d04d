"""What a model that is uploaded from Python takes along: its processor, and its card if it fits."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open

#: Files of the processor, which fit a model as long as its inputs are the same.
PROCESSOR_FILES = (
    *("processor_config.json", "preprocessor_config.json", "tokenizer*", "vocab.*", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "spiece.model"),
)
#: Files that are about exactly these weights.
FILES_OF_WEIGHTS = ("README*.md", "modules.json", "sentence_bert_config.json", "metrics.json")


def copy_companions(model: Any, target: Path, processor: Any = None):
    """Put what belongs to a model next to it.

    Args:
        model: a `PreTrainedModel`, which knows the folder or the name that it was loaded from.
        target: folder with the saved model.
        processor: its processor; by default, that of where the model was loaded from, if it has
            one. The card comes from there, too, if the model still has the same weights.
    """
    source = find_source(str(model.name_or_path))
    if processor is not None:
        processor.save_pretrained(target)
    elif source is not None:
        copy(source, target, PROCESSOR_FILES)
    if source is not None and is_unchanged(model, source):
        copy(source, target, FILES_OF_WEIGHTS)


def find_source(name: str) -> Path | None:
    """The folder that a model was loaded from; None for a model that was built here."""
    if Path(name).is_dir():
        return Path(name)
    if name.count("/") != 1 or Path(name).exists():
        return None
    patterns = [*PROCESSOR_FILES, *FILES_OF_WEIGHTS, "config.json", "model*.safetensors"]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
    except OSError:  # it was not loaded by this name
        return None


def copy(source: Path, target: Path, patterns: tuple[str, ...]):
    """Copy files of a folder, over those that are there."""
    for pattern in patterns:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, target / path.name)


def is_unchanged(model: Any, source: Path) -> bool:
    """Whether a model is of the class, and has the weights, that a folder has."""
    try:
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if config.get("architectures") != [type(model).__name__]:
        return False
    state = model.state_dict()
    names: set[str] = set()
    for file in source.glob("model*.safetensors"):
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is no dict
                value = weights.get_tensor(name)
                if name not in state or not torch.equal(state[name].cpu(), value):
                    return False
                names.add(name)
    # Buffers that are computed, and tied weights, are not saved.
    return set(dict(model.named_parameters())) <= names
