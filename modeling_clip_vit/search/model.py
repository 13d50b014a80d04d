"""The model of an index: recognised by a fingerprint, exported into it, run in torch or ONNX."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .encoders import EXPORT_FILE, read_manifest
from .settings import IndexModel, PictureIndexError

#: Files of a checkpoint that its vectors depend on, besides the weights.
PREPARATION_FILES = (
    *("preprocessor_config.json", "processor_config.json"),
    *("tokenizer.json", "tokenizer_config.json"),
)
#: Entries of config.json that change nothing.
IDLE_ENTRIES = ("transformers_version", "_name_or_path", "auto_map", "architectures", "dtype")


@dataclass(frozen=True)
class NamedModel:
    """A model as a command names it, on this machine.

    Args:
        name: on the command line.
        folder: a checkpoint of this package or of Transformers, or an export.
        precision: of the export that an index is made with: `fp32` or `int8`.
        fingerprint: of weights, preparation and precision.
    """

    name: str
    folder: Path
    precision: str
    fingerprint: str

    @property
    def is_export(self) -> bool:
        """Whether the folder is what `clip-vit export` wrote."""
        return (self.folder / EXPORT_FILE).is_file()


def find_model(name: str, precision: str = "fp32") -> NamedModel:
    """The model of a name: any peer's checkpoint, converted if need be, or an export.

    Args:
        name: a folder or a Hub id.
        precision: to export a checkpoint in; that of an export stays what it is.

    Raises:
        UserError: there is no such model, or it cannot be converted without loss.
    """
    folder = Path(name).expanduser()
    if not (folder / EXPORT_FILE).is_file() and not is_ours(folder):
        folder = find_checkpoint(name)
    return NamedModel(name, folder, precision, fingerprint_of(folder, precision))


def is_ours(folder: Path) -> bool:
    """Whether a folder is a checkpoint of this package, which needs no conversion."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        return (
            config["model_type"] == "clip_vit" and not (folder / "open_clip_config.json").exists()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def find_checkpoint(name: str) -> Path:
    """The folder of a checkpoint with its weights, downloaded and converted if need be."""
    from ..utils.models import import_models

    import_models()
    from ..conversion.published import local_checkpoint
    from ..conversion.sources import find_source

    local = local_checkpoint(name)
    source = find_source(local)
    if source is None or not (source.folder / "config.json").is_file():
        raise PictureIndexError(f"there is no checkpoint {name!r} (looked in {Path.cwd()})")
    source.fetch_weights()
    return source.folder


def fingerprint_of(folder: Path, precision: str) -> str:
    """What is another if a model's vectors may be: a hash of its weights and preparation.

    Args:
        folder: a checkpoint or an export.
        precision: that a checkpoint is exported in.
    """
    if (folder / EXPORT_FILE).is_file():
        files = read_manifest(folder)["files"]
        parts = {name: entry["sha256"] for name, entry in files.items() if name != "example.py"}
        return digest_of(parts)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    parts = {name: value for name, value in config.items() if name not in IDLE_ENTRIES}
    files = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    files += [folder / name for name in PREPARATION_FILES if (folder / name).is_file()]
    for file in sorted(files):
        with file.open("rb") as stream:
            parts[file.name] = hashlib.file_digest(stream, "sha256").hexdigest()
    return digest_of({**parts, "precision": precision})


def digest_of(parts: dict[str, Any]) -> str:
    """A hash of values with names, whatever their order."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@contextmanager
def exported(model: NamedModel) -> Iterator[tuple[IndexModel, Path]]:
    """What an index says of a model, and a folder with both towers as ONNX for the block.

    Raises:
        UserError: an export has another format or one part alone, or the model cannot be exported.
    """
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        if model.is_export:
            check_export(model)
            shutil.copytree(model.folder, folder)
        else:
            export_checkpoint(model, folder)
        manifest = read_manifest(folder)
        described = IndexModel(
            name=model.name,
            fingerprint=model.fingerprint,
            embedding_size=manifest["embedding_size"],
            logit_scale=manifest["logit_scale"],
            logit_bias=manifest["logit_bias"],
            image_size=manifest["image_size"],
            languages=languages_of(model.folder),
        )
        yield described, folder


def check_export(model: NamedModel):
    """Refuse an export that an index cannot hold.

    Raises:
        PictureIndexError: it is of another format than ONNX, or lacks a tower.
    """
    manifest = read_manifest(model.folder)
    parts = manifest.get("components", {})
    if manifest.get("format") != "onnx" or not {"image", "text"} <= parts.keys():
        raise PictureIndexError(
            f"{model.name!r} is an export of format {manifest.get('format')!r} with the parts "
            f"{', '.join(parts)}, and an index holds its model as ONNX with image and text: name "
            "the checkpoint, or export it with --format onnx --part both"
        )


def export_checkpoint(model: NamedModel, target: Path):
    """Export both towers of a checkpoint to ONNX."""
    from ..utils.models import import_models

    import_models()
    from ..export.folder import export_clip
    from ..inference.loading import load_clip

    loaded, processor = load_clip(str(model.folder))
    export_clip(loaded, processor, target, "onnx", model.precision)


def languages_of(folder: Path) -> list[str] | None:
    """The languages that the card of a checkpoint names; None where it names none."""
    from huggingface_hub import metadata_load

    try:
        metadata = metadata_load(folder / "README.md") or {}
    except Exception:  # there is no card, or one that is no YAML
        return None
    found = metadata.get("language")
    found = [found] if isinstance(found, str) else found
    return [str(language) for language in found] if isinstance(found, list) else None
