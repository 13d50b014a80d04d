"""Frozen towers and frozen blocks."""

from torch import nn

from ..utils.errors import UserError
from .blocks import depths, find_blocks
from .options import ModelOptions


def freeze(model: nn.Module, options: ModelOptions) -> list[nn.Module]:
    """Freeze whole towers, or their lowest blocks with the embeddings before them.

    Returns:
        The frozen modules. They belong in evaluation mode, without dropout and with constant
        running statistics.

    Raises:
        UserError: the options freeze more blocks than there are.
    """
    frozen: list[nn.Module] = []
    counts = {"vision": options.frozen_vision_layers, "text": options.frozen_text_layers}
    for name, count in counts.items():
        tower = getattr(model, f"{name}_model", None)
        if tower is None:  # a classifier has no texts
            continue
        if name in options.frozen_towers:
            tower.requires_grad_(False)
            frozen.append(tower)
        elif count:
            frozen += freeze_lowest(tower, count, f"frozen_{name}_layers")
    return frozen


def freeze_lowest(tower: nn.Module, count: int, field: str) -> list[nn.Module]:
    """Freeze the lowest `count` blocks of a tower and what comes before them.

    Returns:
        The modules of which no weight learns.

    Raises:
        UserError: the tower has fewer blocks; the message names the option `field`.
    """
    blocks = find_blocks(tower)
    if count > len(blocks):
        raise UserError(f"{field}={count} is not allowed: the tower has {len(blocks)} blocks")
    depth = depths(tower)
    for parameter in tower.parameters():
        if depth[id(parameter)] <= count:
            parameter.requires_grad = False
    return without_gradient(tower)


def without_gradient(tower: nn.Module) -> list[nn.Module]:
    """The modules of a tower that have parameters, none of which learns."""
    return [
        module
        for module in tower.modules()
        if (parameters := list(module.parameters()))
        and not any(parameter.requires_grad for parameter in parameters)
    ]
