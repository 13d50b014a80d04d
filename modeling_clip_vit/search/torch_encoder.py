"""Embed pictures with the checkpoint itself, on an accelerator.

This module imports torch, and is itself imported only where there is an accelerator.

Shape legend: `N` pictures, `S` side in pixels, `P` projection.
"""

from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import normalize

from ..inference.loading import load_clip
from .encoders import Preparation


class TorchPixelEncoder:
    """Embeds prepared pixels with a checkpoint on torch's device.

    Args:
        folder: of the checkpoint.
        preparation: of the index's model.
    """

    def __init__(self, folder: Path, preparation: Preparation):
        self.model, _ = load_clip(str(folder))
        device = self.model.device
        self.factor = torch.from_numpy(preparation.factor).to(device)
        self.shift = torch.from_numpy(preparation.shift).to(device)

    @torch.inference_mode()
    def embed_pixels(self, pixels: np.ndarray) -> np.ndarray:
        """Embed uint8 (N, S, S, 3): float32 (N, P) of length 1."""
        values = torch.from_numpy(pixels).to(self.model.device).permute(0, 3, 1, 2).float()
        values = values * self.factor + self.shift
        outputs = self.model.get_image_features(values.to(self.model.dtype))
        return normalize(outputs.pooler_output.float(), dim=-1).cpu().numpy()


def has_accelerator() -> bool:
    """Whether torch computes on something else than the processor."""
    return torch.accelerator.current_accelerator(check_available=True) is not None
