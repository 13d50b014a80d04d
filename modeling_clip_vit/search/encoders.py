"""Embed texts and pictures with the ONNX export in an index, without torch and Transformers.

Shape legend: `N` items, `L` tokens, `S` side in pixels, `P` projection.
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

EXPORT_FILE = "export.json"
PROCESSOR_FILE = "processor_config.json"
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
        self.preparation = Preparation.read(folder)

    def __call__(self, images: Sequence[Image.Image]) -> np.ndarray:
        """Embed RGB images of any size: float32 (N, P) of length 1."""
        parts = [
            self.embed_pixels(np.stack([self.preparation(image) for image in batch]))
            for start in range(0, len(images), BATCH_SIZE)
            if (batch := images[start : start + BATCH_SIZE])
        ]
        return np.concatenate(parts or [np.zeros((0, self.embedding_size), np.float32)])

    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embed what the preparation made of images, uint8 (N, S, S, 3): float32 (N, P)."""
        return self.run({"pixel_values": self.preparation.normalize(pixels)})


class Preparation:
    """Makes pixels of images as CLIP's image processor does, with Pillow and numpy.

    Args:
        fields: of the image processor, as Transformers saves them.

    Raises:
        UserError: the processor does what is not done here.
    """

    def __init__(self, fields: dict[str, Any]):
        size: dict[str, int] = fields.get("size") or {}
        crop: dict[str, int] = fields.get("crop_size") or {}
        self.shortest: int | None = size.get("shortest_edge")
        self.crops = bool(fields.get("do_center_crop"))
        target = crop if self.crops else size
        self.side: int = target.get("height") or 0
        self.resized = None if self.shortest else (size.get("width", 0), size.get("height", 0))
        self.resample = Image.Resampling(int(fields.get("resample", Image.Resampling.BICUBIC)))
        is_known = self.side and target.get("width") == self.side
        if not is_known or fields.get("do_pad") or not fields.get("do_resize", True):
            raise UserError(
                "the model prepares images in a way that an index does not know: it must resize "
                "them, and cut a square from the middle or take them as squares"
            )
        scale = fields.get("rescale_factor", 1 / 255) if fields.get("do_rescale", True) else 1.0
        mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
        if fields.get("do_normalize", True):
            mean = np.array(fields["image_mean"], np.float32)
            std = np.array(fields["image_std"], np.float32)
        self.factor = (scale / std).astype(np.float32).reshape(3, 1, 1)
        self.shift = (-mean / std).reshape(3, 1, 1)

    @classmethod
    def read(cls, folder: Path) -> "Preparation":
        """The preparation of an export or a checkpoint.

        Raises:
            UserError: the folder does not say how images are prepared, or in an unknown way.
        """
        for name in (PROCESSOR_FILE, "preprocessor_config.json"):
            if (folder / name).is_file():
                fields = json.loads((folder / name).read_text(encoding="utf-8"))
                return cls(fields.get("image_processor", fields))
        raise UserError(f"{str(folder)!r} has no {PROCESSOR_FILE}: how are images prepared?")

    @property
    def least_side(self) -> int:
        """How small the shorter side of an image may be decoded without a visible loss."""
        return 2 * (self.shortest or self.side)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resize an RGB image and cut a square from its middle: uint8 (S, S, 3)."""
        width, height = self.resized_size(image)
        if not self.crops or (width, height) == (self.side, self.side):
            return np.asarray(image.resize((width, height), self.resample))
        left, top = int((width - self.side) / 2), int((height - self.side) / 2)
        if min(left, top) < 0:  # smaller than what is cut out: black around it
            resized = image.resize((width, height), self.resample)
            left, top = -((self.side - width) // 2), -((self.side - height) // 2)
            return np.asarray(resized.crop((left, top, left + self.side, top + self.side)))
        # What is cut away need not be resized; Pillow still reads the pixels around the box.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + self.side) * across, (top + self.side) * down)
        box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
        return np.asarray(image.resize((self.side, self.side), self.resample, box=box))

    def resized_size(self, image: Image.Image) -> tuple[int, int]:
        """Width and height that an image is resized to, rounded as Transformers does."""
        if self.resized is not None:
            return self.resized
        side = int(self.shortest or self.side)
        if image.width <= image.height:
            return side, max(1, int(side * image.height / image.width))
        return max(1, int(side * image.width / image.height)), side

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """Pixels as a model takes them: uint8 (N, S, S, 3) to float32 (N, 3, S, S)."""
        values = pixels.transpose(0, 3, 1, 2).astype(np.float32, order="C")
        values *= self.factor
        values += self.shift
        return values


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
