"""Embed pictures with the checkpoint itself, on an accelerator.

This module imports torch, and is itself imported only where there is an accelerator.

Shape legend: `N` pictures, `Y` and `X` rows and columns of pixels, `P` projection.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from ..inference.loading import load_clip
from .preparation import Preparation


class TorchPixelEncoder:
    """Embeds prepared pixels with a checkpoint on torch's device.

    Args:
        folder: of the checkpoint.
        preparation: of the index's model.
    """

    def __init__(self, folder: Path, preparation: Preparation):
        self.model, _ = load_clip(str(folder))
        device = self.model.device
        self.collect = preparation.collect
        self.factor = torch.from_numpy(preparation.factor).to(device)
        self.shift = torch.from_numpy(preparation.shift).to(device)

    @torch.inference_mode()
    def embed_pixels(self, pixels: Sequence[np.ndarray]) -> np.ndarray:
        """Embed resized images, each uint8 (Y, X, 3): float32 (N, P) of length 1."""
        inputs = {
            name: torch.from_numpy(array).to(self.model.device)
            for name, array in self.collect(pixels).items()
        }
        values = inputs["pixel_values"].float() * self.factor + self.shift
        inputs["pixel_values"] = values.to(self.model.dtype)
        outputs = self.model.get_image_features(**inputs)
        return normalize(outputs.pooler_output.float(), dim=-1).cpu().numpy()


def has_accelerator() -> bool:
    """Whether torch computes on something else than the processor."""
    return torch.accelerator.current_accelerator(check_available=True) is not None
