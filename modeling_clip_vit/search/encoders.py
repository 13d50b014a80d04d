"""Embed texts and pictures with the ONNX export in an index, without torch and Transformers.

Shape legend: `N` items, `L` tokens, `Y` and `X` rows and columns of pixels, `P` projection.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..utils.errors import UserError, one_line
from ..utils.packages import require
from .preparation import read_preparation

EXPORT_FILE = "export.json"
#: Texts or pictures that are embedded at a time.
BATCH_SIZE = 64


class Tower:
    """One graph of an export, opened when it is first needed.

    Args:
        folder: what `clip-vit export --format onnx` wrote.
        part: `text` or `image`.
        threads: number of threads to compute with; None leaves it to ONNX Runtime.
    """

    def __init__(self, folder: Path, part: str, threads: int | None = None):
        self.folder, self.part, self.threads = folder, part, threads
        self.manifest = read_manifest(folder)

    @property
    def embedding_size(self) -> int:
        """P, numbers of an embedding."""
        return self.manifest["embedding_size"]

    @cached_property
    def session(self) -> Any:
        """The graph in ONNX Runtime.

        Raises:
            UserError: ONNX Runtime is not installed, or the graph cannot be read.
        """
        require(("onnxruntime",), "search", "the model of an index")
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        path = self.folder / self.manifest["components"][self.part]["file"]
        try:
            return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # a dozen types without a common one
            reason = one_line(error)[:300]
            raise UserError(f"the model {str(path)!r} cannot be loaded: {reason}") from error

    def run(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        """The embeddings of a batch: float32 (N, P) of length 1."""
        return self.session.run([f"{self.part}_embeds"], inputs)[0]


class TextEncoder(Tower):
    """Embeds texts: `encoder(["a dog"])` is float32 (1, P) of length 1.

    Args:
        folder: what `clip-vit export --format onnx` wrote.
        threads: number of threads to compute with; None leaves it to ONNX Runtime.
    """

    def __init__(self, folder: Path, threads: int | None = None):
        super().__init__(folder, "text", threads)

    @cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, which truncates and pads as the model needs it."""
        require(("tokenizers",), "search", "a search by text")
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self.folder / "tokenizer.json"))
        tokenizer.encode_special_tokens = True  # `<eos>` in a query is text
        return tokenizer

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Embed texts, truncated if they are too long: float32 (N, P) of length 1."""
        parts = [
            self.run(self.tokenize(texts[start : start + BATCH_SIZE]))
            for start in range(0, len(texts), BATCH_SIZE)
        ]
        return np.concatenate(parts or [np.zeros((0, self.embedding_size), np.float32)])

    def tokenize(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The inputs of the model for texts, int64 (N, L)."""
        encodings = self.tokenizer.encode_batch(list(texts))
        columns = {"input_ids": "ids", "attention_mask": "attention_mask"}
        return {
            name: np.array([getattr(it, columns[name]) for it in encodings], dtype=np.int64)
            for name in self.manifest["text_inputs"]
        }


class ImageEncoder(Tower):
    """Embeds RGB images of any size: `encoder([image])` is float32 (1, P) of length 1.

    Args:
        folder: what `clip-vit export --format onnx` wrote.
        threads: number of threads to compute with; None leaves it to ONNX Runtime.
    """

    def __init__(self, folder: Path, threads: int | None = None):
        super().__init__(folder, "image", threads)
        self.preparation = read_preparation(folder)

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Embed RGB images of any size: float32 (N, P) of length 1."""
        parts = [
            self.embed_pixels([self.preparation(image) for image in batch])
            for start in range(0, len(images), BATCH_SIZE)
            if (batch := images[start : start + BATCH_SIZE])
        ]
        return np.concatenate(parts or [np.zeros((0, self.embedding_size), np.float32)])

    def embed_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embed what the preparation made of images, each uint8 (Y, X, 3): float32 (N, P)."""
        inputs = self.preparation.collect(pixels)
        return self.run(
            inputs | {"pixel_values": self.preparation.normalize(inputs["pixel_values"])}
        )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of an export's export.json.

    The files are not hashed at every search; ONNX Runtime refuses a damaged graph.

    Raises:
        UserError: it cannot be read, or a file is missing or has another size.
    """
    try:
        manifest = json.loads((folder / EXPORT_FILE).read_text(encoding="utf-8"))
        sizes = {name: entry["size"] for name, entry in manifest["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"the model in {str(folder)!r} cannot be read: {one_line(error)}"
        ) from error
    for name, size in sizes.items():
        file = folder / name
        if not file.is_file() or file.stat().st_size != size:
            raise UserError(f"the model in {str(folder)!r} is incomplete: {name!r} is not whole")
    return manifest
