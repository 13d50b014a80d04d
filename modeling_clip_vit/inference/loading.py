"""Load a CLIP and its processor from a folder or the Hub, or an exported one."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import AutoModel, BatchFeature, CLIPModel, CLIPProcessor

from ..modeling_clip_vit import ClipVitModel
from ..runtimes import RUNTIMES
from ..utils.devices import default_device
from ..utils.from_pretrained import LoadError, load_model, load_processor
from .embedding import (
    embed_image_inputs,
    embed_images,
    embed_pixels,
    embed_texts,
    options_for,
    similarity_of,
)
from .exported import EXPORT_FILE, ExportedEncoder


def load_clip(path: str) -> tuple[ClipVitModel | CLIPModel, CLIPProcessor]:
    """A model with `get_image_features` and `get_text_features`, ready to embed, and its processor.

    Any CLIP-like checkpoint of Transformers will do. Code that a checkpoint carries is not run.

    Raises:
        LoadError: there is no checkpoint, it is incomplete, or its model cannot embed both images
            and texts.
        MissingPackageError: it is quantised, and torchao is not installed.
    """
    folder = Path(path).expanduser()
    if (folder / EXPORT_FILE).is_file():
        raise LoadError(f"{path!r} is an exported model; pass the checkpoint it was exported from")
    model, processor = load_model(AutoModel, path), load_processor(path)
    if not hasattr(model, "get_image_features") or not hasattr(model, "get_text_features"):
        raise LoadError(
            f"{path!r} holds a model of type {model.config.model_type!r}, which does not embed "
            "images and texts: give a clip_vit checkpoint"
        )
    return model.eval().to(default_device()), processor


@dataclass
class TorchEncoder:
    """Embeds images and texts with a model in torch.

    Args:
        model: a CLIP.
        processor: its processor.
    """

    model: ClipVitModel | CLIPModel
    processor: CLIPProcessor

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> torch.Tensor:
        """Embed RGB images of any size: float32 (N, P) of length 1."""
        return embed_images(self.model, self.processor, images, batch_size)

    def encode_pixels(self, pixels: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Embed decoded images, uint8 (N, 3, S, S) of the model's size: float32 (N, P)."""
        return embed_pixels(self.model, self.processor, pixels, batch_size)

    def encode_inputs(self, inputs: BatchFeature) -> torch.Tensor:
        """Embed what the image processor made of images: float32 (N, P) of length 1."""
        return embed_image_inputs(self.model, inputs)

    def encode_text(self, texts: str | Sequence[str], batch_size: int = 256) -> torch.Tensor:
        """Embed texts, truncated if they are too long: float32 (N, P) of length 1.

        A string is one text.
        """
        return embed_texts(self.model, self.processor.tokenizer, texts, batch_size)

    @property
    def image_size(self) -> int:
        """S, the side of the square images that the model was made for."""
        config: Any = self.model.config.vision_config
        if getattr(config, "image_size", None) is not None:
            return config.image_size
        return int(config.num_patches**0.5) * config.patch_size

    @property
    def tokenizer_options(self) -> dict[str, Any]:
        """Arguments of a call of the tokenizer that gives what the text tower takes."""
        return options_for(self.model, self.processor.tokenizer)

    @property
    def similarity(self) -> tuple[float, float | None]:
        """The factor on cosines that makes them logits, and what is added: None without a bias."""
        return similarity_of(self.model)


#: What embeds images and texts on any runtime.
Encoder = TorchEncoder | ExportedEncoder


def load_encoder(path: str, runtime: str = "auto", threads: int | None = None) -> Encoder:
    """What embeds images and texts, from a checkpoint or from an export.

    Args:
        path: a checkpoint (a folder, or the id of a model on the Hub), or a folder that
            `clip-vit export` wrote.
        runtime: `torch` for a checkpoint, a key of `RUNTIMES` for an export; `auto` takes what
            fits the folder.
        threads: number of threads that an export computes with; None leaves it to the runtime.

    Raises:
        LoadError: there is no such checkpoint, it is incomplete, or the runtime does not run it.
        ExportError: the export is incomplete or was changed, or the runtime does not run it.
    """
    if runtime not in ("auto", *RUNTIMES):
        raise LoadError(f"no runtime {runtime!r}: there are auto, {', '.join(RUNTIMES)}")
    folder = Path(path).expanduser()
    if (folder / EXPORT_FILE).is_file():
        return ExportedEncoder(folder, None if runtime == "auto" else runtime, threads)
    if runtime not in ("auto", "torch"):
        raise LoadError(
            f"runtime {runtime!r} runs exports, and {path!r} is none: make one with clip-vit export"
        )
    return TorchEncoder(*load_clip(path))
