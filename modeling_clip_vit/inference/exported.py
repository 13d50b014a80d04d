"""An exported folder: read its export.json, check its files, embed with its graphs.

Shape legend: `B` batch, `L` tokens or patches, `S` side in pixels, `P` projection, `D` numbers of a
patch.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import AutoProcessor, CLIPProcessor

from ..data.transforms import normalize
from ..runtimes import RUNTIMES, Session, exporting_runtimes, open_session, runtimes_of
from ..runtimes.runtime import IMAGE_INPUTS
from ..utils.errors import UserError
from .embedding import embed_image_batches, embed_text_batches, text_options

#: Written last into an exported folder; Transformers' `ExportedModel` reads it as well.
EXPORT_FILE = "export.json"

#: Our entries in export.json, besides those of Transformers.
FIELDS = {
    "format": str,
    "precision": str,
    "model_type": str,
    "image_size": int,
    "num_channels": int,
    "embedding_size": int,
    "max_text_length": int,
    "vocab_size": int,
    "text_inputs": list,
    "logit_scale": float,
    "image_mean": list,
    "image_std": list,
    "files": dict,
    "components": dict,
}


class ExportError(UserError):
    """An export that cannot be made or used; the message is one clear sentence."""


def size_and_sha256(path: Path) -> dict[str, Any]:
    """Size and checksum of a file."""
    with path.open("rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": checksum}


def read_export(folder: Path) -> dict:
    """The content of export.json, once every file that it lists was found to be whole.

    Raises:
        ExportError: it is not an export of this package, or a file is missing or was changed.
    """
    path = folder / EXPORT_FILE
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"cannot read {str(path)!r}: {error}") from error
    for name, kind in FIELDS.items():
        if not isinstance(manifest, dict) or not isinstance(manifest.get(name), kind):
            raise ExportError(
                f"{str(path)!r} has no {name!r}: it was not written by clip-vit export"
            )
    formats = exporting_runtimes()
    if manifest["format"] not in formats:
        raise ExportError(
            f"{str(path)!r} has the format {manifest['format']!r}: allowed is {', '.join(formats)}"
        )
    for component in manifest["components"].values():
        if component.get("file") not in manifest["files"]:
            raise ExportError(f"{str(path)!r} lists no checksum of {component.get('file')!r}")
    for name, expected in manifest["files"].items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            raise ExportError(f"{str(folder)!r} is incomplete: there is no {name!r} in it")
        if size_and_sha256(file) != expected:
            raise ExportError(
                f"{str(file)!r} is not the file that was exported: its size or checksum differs "
                f"from {EXPORT_FILE}"
            )
    return manifest


def check_images(manifest: Mapping[str, Any], inputs: Mapping[str, np.ndarray]):
    """Refuse images that an exported model was not made for.

    Raises:
        ExportError: they are not float32 of shape (B, channels, S, S), or patches as
            `check_patches` wants them.
    """
    names = image_inputs_of(manifest)
    if sorted(inputs) != sorted(names):
        raise ExportError(
            f"the image inputs are {', '.join(sorted(inputs))}, but this export takes "
            f"{', '.join(sorted(names))}"
        )
    if len(names) > 1:
        return check_patches(manifest, inputs)
    pixels, size = inputs["pixel_values"], manifest["image_size"]
    shape = (manifest["num_channels"], size, size)
    if pixels.dtype != np.float32 or pixels.ndim != 4 or pixels.shape[1:] != shape:
        raise ExportError(
            f"pixel_values is {pixels.dtype} of shape {pixels.shape}, but this export takes "
            f"float32 of shape (batch, {', '.join(map(str, shape))})"
        )


def check_patches(manifest: Mapping[str, Any], inputs: Mapping[str, np.ndarray]):
    """Refuse images in their own aspect ratio that an exported model was not made for.

    Raises:
        ExportError: they are not float32 of shape (B, L, D) with a mask (B, L) and shapes (B, 2) in
            int64, or the shapes do not say how many patches count.
    """
    patches, mask, shapes = (inputs[name] for name in IMAGE_INPUTS)
    width = manifest["num_channels"] * manifest["patch_size"] ** 2
    batch = patches.shape[:2]
    if patches.dtype != np.float32 or patches.ndim != 3 or patches.shape[2] != width:
        raise ExportError(
            f"pixel_values is {patches.dtype} of shape {patches.shape}, but this export takes "
            f"float32 of shape (batch, patches, {width})"
        )
    for name, value, shape in (
        ("pixel_attention_mask", mask, batch),
        ("spatial_shapes", shapes, (batch[0], 2)),
    ):
        if value.dtype != np.int64 or value.shape != shape:
            raise ExportError(
                f"{name} is {value.dtype} of shape {value.shape}, but this export takes int64 of "
                f"shape {tuple(shape)} with these patches"
            )
    counts = shapes.prod(axis=1)
    if batch[1] > manifest["max_num_patches"] or not np.array_equal(mask.sum(axis=1), counts):
        raise ExportError(
            f"this export takes at most {manifest['max_num_patches']} patches, of which "
            "pixel_attention_mask keeps as many as spatial_shapes says"
        )


def image_inputs_of(manifest: Mapping[str, Any]) -> list[str]:
    """The names of the inputs of an export's image tower; older exports name none."""
    return manifest.get("image_inputs") or [*IMAGE_INPUTS[:1]]


def check_texts(manifest: Mapping[str, Any], inputs: Mapping[str, np.ndarray]):
    """Refuse texts that an exported model was not made for.

    A runtime would look up an unknown token or position beyond the end of its table, some of them
    silently.

    Raises:
        ExportError: they are not int64 of shape (B, L), are too long, or have tokens that the model
            does not know.
    """
    if sorted(inputs) != sorted(manifest["text_inputs"]):
        raise ExportError(
            f"the text inputs are {', '.join(sorted(inputs))}, but this export takes "
            f"{', '.join(sorted(manifest['text_inputs']))}"
        )
    most, vocab = manifest["max_text_length"], manifest["vocab_size"]
    ids = inputs["input_ids"]
    for name, value in inputs.items():
        if value.dtype != np.int64 or value.ndim != 2 or value.shape != ids.shape:
            raise ExportError(
                f"{name} is {value.dtype} of shape {value.shape}, but this export takes int64 of "
                "shape (batch, tokens), the same for every input"
            )
    if not 1 <= ids.shape[1] <= most:
        raise ExportError(f"texts of {ids.shape[1]} tokens are not allowed: 1 to {most} are")
    if ids.size and not (ids.min() >= 0 and ids.max() < vocab):
        worst = ids.min() if ids.min() < 0 else ids.max()
        raise ExportError(f"token {worst} is not allowed: this export has tokens 0 to {vocab - 1}")


def read_processor(folder: Path, manifest: Mapping[str, Any]) -> CLIPProcessor:
    """The processor of an export, from the files that export.json lists and no others.

    Transformers would also read other files in the folder, and truncate texts differently.
    """
    graphs = {component["file"] for component in manifest["components"].values()}
    with tempfile.TemporaryDirectory() as place:
        for name in set(manifest["files"]) - graphs:
            if not name.endswith((".bin", ".data")):  # weights
                shutil.copy(folder / name, place)
        return AutoProcessor.from_pretrained(place)


class ExportedEncoder:
    """Embeds images and texts with the graphs of an exported folder.

    Args:
        folder: what `clip-vit export` wrote.
        runtime: a key of `RUNTIMES`; None takes the one that the format is exported for.
        threads: number of threads to compute with; None leaves it to the runtime.

    Raises:
        ExportError: the folder is incomplete or changed, or the runtime does not run it.
    """

    def __init__(self, folder: Path, runtime: str | None = None, threads: int | None = None):
        self.folder = folder
        self.manifest = read_export(folder)
        format = self.manifest["format"]
        runtimes = runtimes_of(format)
        if runtime is not None and runtime not in runtimes:
            raise ExportError(
                f"runtime {runtime!r} does not run {str(folder)!r}, which is of format "
                f"{format!r}: allowed is {' or '.join(runtimes)}"
            )
        if runtime is None and RUNTIMES[runtimes[0]].can_run_code:
            raise ExportError(
                f"{str(folder)!r} is of format {format!r}, and loading such a program can run code "
                f"that it contains: name the runtime {runtimes[0]!r} if you trust its source"
            )
        self.runtime = runtime or runtimes[0]
        self.processor = read_processor(folder, self.manifest)
        self.sessions: dict[str, Session] = {
            name: open_session(
                folder / component["file"], self.runtime, self.manifest["precision"], threads
            )
            for name, component in self.manifest["components"].items()
        }

    def run_image(self, pixels: np.ndarray, **shapes: np.ndarray) -> np.ndarray:
        """Embed prepared images, float32 (B, channels, S, S): float32 (B, P) of length 1.

        Args:
            pixels: `pixel_values`; of images in their own aspect ratio, patches (B, L, D).
            shapes: with patches, `pixel_attention_mask` (B, L) and `spatial_shapes` (B, 2).

        Raises:
            ExportError: this export has no image tower, or the images are of another shape.
        """
        inputs = {"pixel_values": pixels, **shapes}
        check_images(self.manifest, inputs)
        return self._session("image")(inputs)["image_embeds"]

    def run_text(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Embed tokenised texts, int64 (B, L): float32 (B, P) of length 1.

        Raises:
            ExportError: this export has no text tower, or does not take such texts.
        """
        check_texts(self.manifest, inputs)
        return self._session("text")(inputs)["text_embeds"]

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> torch.Tensor:
        """Embed RGB images of any size: float32 (N, P) of length 1."""

        def embed(batch: list[Image.Image]) -> torch.Tensor:
            return self.encode_inputs(self.processor(images=batch, return_tensors="pt"))

        return embed_image_batches(embed, images, batch_size)

    def encode_pixels(self, pixels: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Embed decoded images, uint8 (N, 3, S, S) of the model's size: float32 (N, P)."""
        mean, std = self.manifest["image_mean"], self.manifest["image_std"]
        parts = []
        for batch in pixels.split(batch_size):
            inputs = {"pixel_values": normalize(batch.float() / 255, mean, std)}
            parts.append(self.encode_inputs(inputs))
        return torch.cat(parts)

    def encode_inputs(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Embed what the image processor made of images: float32 (N, P) of length 1."""
        _, *names = image_inputs_of(self.manifest)
        shapes = {name: np.asarray(inputs[name], dtype=np.int64) for name in names}
        return torch.from_numpy(self.run_image(inputs["pixel_values"].numpy(), **shapes))

    def encode_text(self, texts: str | Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Embed texts, truncated if they are too long: float32 (N, P) of length 1.

        A string is one text.
        """
        options = self.tokenizer_options

        def embed(batch: list[str]) -> torch.Tensor:
            tokens = self.processor.tokenizer(batch, return_tensors="np", **options)
            inputs = {name: tokens[name].astype(np.int64) for name in self.manifest["text_inputs"]}
            return torch.from_numpy(self.run_text(inputs))

        return embed_text_batches(embed, texts, batch_size)

    @property
    def image_size(self) -> int:
        """S, the side of the square images that the model was made for."""
        return self.manifest["image_size"]

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """Arguments of a call of the tokenizer that gives what the text tower takes."""
        is_padding_read = "attention_mask" not in self.manifest["text_inputs"]
        return text_options(is_padding_read, self.manifest["max_text_length"])

    @property
    def similarity(self) -> tuple[float, float | None]:
        """The factor on cosines that makes them logits, and what is added: None without a bias."""
        return self.manifest["logit_scale"], self.manifest["logit_bias"]

    def _session(self, part: str) -> Session:
        if part not in self.sessions:
            raise ExportError(
                f"{str(self.folder)!r} only has the part {', '.join(self.sessions)}, and this "
                f"needs {part}: export it with --part both"
            )
        return self.sessions[part]
