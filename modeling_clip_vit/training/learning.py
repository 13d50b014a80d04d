"""Which weights learn, and how fast: frozen towers, frozen blocks, learning rates by depth."""

from torch import nn

from ..utils.errors import UserError
from .arguments import ModelOptions


def find_blocks(tower: nn.Module) -> nn.ModuleList:
    """The stack of blocks of a tower of any model type: its longest list of modules.

    Raises:
        ValueError: it has none.
    """
    stacks = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    if not stacks:
        raise UserError(f"{type(tower).__name__} has no stack of blocks to freeze or to decay by")
    return max(stacks, key=len)


def depths(tower: nn.Module) -> dict[int, int]:
    """How deep each weight lies: 0 before the blocks, then the block's number from 1, by `id`.

    What comes after the last block has the depth of that block plus one.
    """
    blocks = find_blocks(tower)
    in_block = {id(p): number for number, b in enumerate(blocks, 1) for p in b.parameters()}
    depth, result = 0, {}
    for parameter in tower.parameters():
        if id(parameter) in in_block:
            depth = in_block[id(parameter)]
            result[id(parameter)] = depth
        else:
            result[id(parameter)] = len(blocks) + 1 if depth == len(blocks) else 0
    return result


def freeze(model: nn.Module, options: ModelOptions) -> list[nn.Module]:
    """Stop the learning of whole towers and of the lowest blocks, embeddings included.

    Returns:
        The modules that no longer learn: they belong in evaluation mode, so that their dropout
        rests and their running statistics stay.

    Raises:
        ValueError: more blocks are to be frozen than there are.
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
    """Freeze the lowest `count` blocks of a tower and what comes before them."""
    blocks = find_blocks(tower)
    if count > len(blocks):
        raise UserError(f"{field}={count} is not allowed: the tower has {len(blocks)} blocks")
    depth = depths(tower)
    for parameter in tower.parameters():
        if depth[id(parameter)] <= count:
            parameter.requires_grad = False
    return [
        module
        for module in tower.modules()
        if (own := list(module.parameters())) and not any(p.requires_grad for p in own)
    ]


def learning_rate_scales(model: nn.Module, decay: float) -> dict[int, float]:
    """Factor of the learning rate of each weight, by `id`: `decay` for each block that follows it.

    Layer-wise learning-rate decay (Clark et al., 2020, section 3.2): earlier layers of a pretrained
    tower are more general, so they get a smaller learning rate. Projections and whatever follows
    the blocks keep factor 1.
    """
    scales: dict[int, float] = {}
    if decay == 1:
        return scales
    towers = (getattr(model, f"{name}_model", None) for name in ("vision", "text"))
    for tower in filter(None, towers):
        depth = depths(tower)
        top = max(depth.values())
        scales |= {key: decay ** (top - value) for key, value in depth.items()}
    return scales
