"""Classifiers made of class names and a few labelled examples, on embeddings alone."""

from collections.abc import Callable

import torch

from ...utils.errors import UserError
from .classifiers import Classifier, Examples, ZeroShot
from .prototypes import Prototypes, fit_prototypes
from .tip_adapter import TipAdapter, fit_tip_adapter
from .tip_adapter_f import fit_tip_adapter_f

#: Method -> makes a classifier of the class names, the examples and a seed.
METHODS: dict[str, Callable[[ZeroShot, Examples, int], Classifier]] = {
    "zero_shot": lambda zero_shot, examples, seed: zero_shot,
    "prototypes": lambda zero_shot, examples, seed: fit_prototypes(zero_shot, examples),
    "tip_adapter": lambda zero_shot, examples, seed: fit_tip_adapter(zero_shot, examples),
    "tip_adapter_f": fit_tip_adapter_f,
}


def draw_shots(labels: torch.Tensor, num_classes: int, shots: int, seed: int) -> torch.Tensor:
    """Numbers of `shots` examples of each class, drawn by the seed: those of the first class first.

    Args:
        labels: class of each example, (N,).
        num_classes: how many classes there are.
        shots: examples to draw of each class; a class with fewer gives all.
        seed: of the draw.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    return torch.cat([order[labels[order] == name][:shots] for name in range(num_classes)])


def check_method(name: str):
    """Reject a method that does not exist.

    Raises:
        UserError: the message lists those that do.
    """
    if name not in METHODS:
        raise UserError(f"method={name!r} is not allowed: choose from {', '.join(METHODS)}")


__all__ = [
    "METHODS",
    "Classifier",
    "Examples",
    "Prototypes",
    "TipAdapter",
    "ZeroShot",
    "check_method",
    "draw_shots",
]
