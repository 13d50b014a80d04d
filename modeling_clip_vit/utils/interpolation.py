"""Weights between those of two models."""

import torch


def interpolate(
    first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], alpha: float
) -> dict[str, torch.Tensor]:
    """`(1 - alpha) * first + alpha * second` for each weight of the first.

    Exactly the first at 0, and the second at 1. What is no floating-point number, such as a count
    of batches, is the second's.

    Args:
        first, second: weights by name; the second may have more.
        alpha: share of the second, from 0 to 1.
    """
    mixed = {}
    for name, weight in first.items():
        other = second[name].to(weight.device)
        if weight.is_floating_point():
            other = torch.lerp(weight.double(), other.double(), alpha).to(weight.dtype)
        mixed[name] = other
    return mixed
