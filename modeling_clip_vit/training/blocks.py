"""The stack of blocks in a tower of any model type, and the depth of its weights."""

from torch import nn

from ..utils.errors import UserError


def find_blocks(tower: nn.Module) -> nn.ModuleList:
    """The stack of blocks of a tower of any model type: its longest list of modules.

    Raises:
        UserError: it has none.
    """
    stacks = [module for module in tower.modules() if isinstance(module, nn.ModuleList)]
    if not stacks:
        raise UserError(f"{type(tower).__name__} has no stack of blocks to freeze or to decay by")
    return max(stacks, key=len)


def depths(tower: nn.Module) -> dict[int, int]:
    """Depth of each weight by `id`: 0 before the blocks, then the number of its block from 1.

    Weights after the last block have the depth of that block plus one.
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
