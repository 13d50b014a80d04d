"""Move outliers of activations into the weights behind them (SmoothQuant: Xiao et al., 2023).

NNCF does this too, with multiplications of its own in the graph. Here norms and linear layers take
the factors up, so a model keeps its layers and names, and its float checkpoint computes the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from ..encoder import ClipVitEncoderLayer
from .layers import QuantizationError

#: Lower bound of the magnitudes that factors are computed from.
SMALLEST = 1e-5


@torch.no_grad()
def smooth_tower(
    tower: nn.Module, batches: Sequence[Mapping[str, torch.Tensor]], strength: float
) -> None:
    """Even out the inputs of the linear layers after norms, in place; the function stays the same.

    A channel is divided by `max|x|^strength / max|w|^(1 - strength)` in the norm, and its column of
    weights multiplied by that (section 4, equation 4).

    Args:
        tower: of a joint model, float.
        batches: its inputs by name, to see how large activations are.
        strength: 0 looks at the weights alone, 1 makes all channels equally large.

    Raises:
        QuantizationError: no norm of the tower feeds linear layers alone.
    """
    pairs = find_pairs(tower)
    if not pairs:
        raise QuantizationError(
            "quantization_smoothing needs blocks of this package whose norms stand before their "
            f"branches, and a {type(tower).__name__} as it is configured has none"
        )
    for (norm, readers), peaks in zip(pairs, find_peaks(tower, pairs, batches), strict=True):
        columns = torch.cat([linear.weight for linear in readers]).abs().amax(dim=0)
        columns = columns.clamp(min=SMALLEST)
        factors = peaks.clamp(min=SMALLEST) ** strength / columns ** (1 - strength)
        norm.weight /= factors
        if getattr(norm, "bias", None) is not None:
            norm.bias /= factors
        for linear in readers:
            linear.weight *= factors


def find_pairs(tower: nn.Module) -> list[tuple[Any, list[nn.Linear]]]:
    """Norms, each with all layers that read its output."""
    blocks = [block for block in tower.modules() if isinstance(block, ClipVitEncoderLayer)]
    return [
        pair
        for block in blocks
        if block.placement != "post"
        for pair in (
            (block.norm1, attention_readers(block)),
            (block.norm2, [block.feed_forward.fc1]),
        )
    ]


def attention_readers(block: ClipVitEncoderLayer) -> list[nn.Linear]:
    """The layers that read what the norm before a block's attention gives."""
    attention = block.attention
    return [attention.qkv_proj, *([attention.gate_proj] if attention.gate_proj else [])]


def find_peaks(
    tower: nn.Module,
    pairs: Sequence[tuple[nn.Module, list[nn.Linear]]],
    batches: Sequence[Mapping[str, torch.Tensor]],
) -> list[torch.Tensor]:
    """How large each channel of each norm's output becomes."""
    seen: list[list[torch.Tensor]] = [[] for _ in pairs]

    def watch(place: int):
        def note(module, inputs, output):
            seen[place].append(output.abs().flatten(0, -2).amax(dim=0))

        return pairs[place][0].register_forward_hook(note)

    handles = [watch(place) for place in range(len(pairs))]
    is_training = tower.training
    tower.eval()
    for batch in batches:
        tower(**batch)
    tower.train(is_training)
    for handle in handles:
        handle.remove()
    return [torch.stack(peaks).amax(dim=0) for peaks in seen]
