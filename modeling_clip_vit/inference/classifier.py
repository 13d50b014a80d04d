"""A model with a class head and its image processor.

Shape legend: `N` images, `S` side in pixels, `C` classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageClassification, BatchFeature, CLIPImageProcessor

from ..data.transforms import normalize
from ..modeling_clip_vit import ClipVitForImageClassification
from ..runtimes.runtime import IMAGE_INPUTS
from ..utils.devices import default_device
from ..utils.from_pretrained import load_config, load_image_processor, load_model
from .embedding import embed_image_batches


@dataclass
class TorchClassifier:
    """Computes the logits of classes for images.

    Args:
        model: a model with a class head.
        processor: its image processor.
    """

    model: ClipVitForImageClassification
    processor: CLIPImageProcessor

    def encode_image(self, images: Sequence[Image.Image], batch_size: int = 64) -> torch.Tensor:
        """Logits (N, C), float32 on the CPU, of RGB images of any size."""

        def embed(batch: list[Image.Image]) -> torch.Tensor:
            return self.encode_inputs(self.processor(batch, return_tensors="pt"))

        return embed_image_batches(embed, images, batch_size)

    @torch.inference_mode()
    def encode_pixels(self, pixels: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Logits (N, C), float32 on the CPU, of decoded images: uint8 (N, 3, S, S)."""
        mean, std = self.processor.image_mean, self.processor.image_std
        batches = (normalize(batch.float() / 255, mean, std) for batch in pixels.split(batch_size))
        return torch.cat([self.encode_inputs({"pixel_values": values}) for values in batches])

    @torch.inference_mode()
    def encode_inputs(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Logits (N, C), float32 on the CPU, of images as the image processor returns them."""
        kept = BatchFeature({name: inputs[name] for name in IMAGE_INPUTS if name in inputs})
        return self.model(**kept.to(self.model.device, self.model.dtype)).logits.float().cpu()

    @property
    def image_size(self) -> int:
        """S, the side of the square images that the model was made for."""
        return self.model.config.image_size

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the logits."""
        names = self.model.config.id2label or {}
        return [str(name) for name in names.values()]


def is_classifier(path: str) -> bool:
    """Whether a checkpoint holds a model with a class head."""
    if not (Path(path).expanduser() / "config.json").is_file() and Path(path).exists():
        return False  # an export, or nothing that can be loaded, which the loader says better
    architectures = load_config(path).architectures or []
    return ClipVitForImageClassification.__name__ in architectures


def load_classifier(path: str) -> TorchClassifier:
    """A model with a class head and its image processor, from a folder or the Hub.

    Raises:
        LoadError: the checkpoint is incomplete.
    """
    model = load_model(AutoModelForImageClassification, path)
    return TorchClassifier(model.eval().to(default_device()), load_image_processor(path))
