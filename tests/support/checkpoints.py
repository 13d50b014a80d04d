"""Checkpoints whose weights do not fit the model."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

#: How a checkpoint can misfit -> what the refusal says of the weight `WEIGHT`.
WEIGHT = "text_model.encoder.layers.0.feed_forward.fc1.weight"


MISFITS = {
    "lacks": f"it lacks {WEIGHT}",
    "extra": "it has, besides the model's, other.weight",
    "shape": f"it has in another shape {WEIGHT} (3, 24) instead of (48, 24)",
}


def spoil(folder: Path, misfit: str):
    """Take a weight out of a saved joint model, cut it, or put another beside it."""
    path = folder / "model.safetensors"
    weights = load_file(path)
    if misfit == "extra":
        weights["other.weight"] = torch.zeros(3)
    else:
        weight = weights.pop(WEIGHT)
        if misfit == "shape":
            weights[WEIGHT] = weight[:3].clone()
    save_file(weights, path, metadata={"format": "pt"})
