"""The stack of blocks in a tower of any model type: compiled, and the depth of its weights."""

from typing import Any

import torch
from timm.layers import DropPath
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


#: Graphs that torch may make of the blocks' code: of the first and of the other blocks of a tower;
#: of texts of one length, of any, and without padding; in training and in evaluation. Beyond
#: torch's default of 8, further blocks would not be compiled.
MOST_GRAPHS = 64


class CompiledDropPath(DropPath):
    """Drop path whose rate is a tensor: torch makes a graph of its own for each value of a number.

    Args:
        rate: the share of rows to drop.
    """

    def __init__(self, rate: float):
        super().__init__(rate)
        self.kept: torch.Tensor
        self.register_buffer("kept", torch.tensor(1 - rate), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Drop rows in training and scale the others up: (B, ...) to (B, ...)."""
        if not self.training:
            return x
        random = torch.rand((x.shape[0],) + (1,) * (x.ndim - 1), device=x.device)
        return x * ((random < self.kept) / self.kept).to(x.dtype)


def compile_blocks(tower: nn.Module, **kwargs: Any):
    """Compile each block of a tower; blocks that differ in their drop-path rate share a graph.

    Args:
        tower: of any model type; changed.
        kwargs: of `torch.compile`.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    for block in find_blocks(tower):
        for parent in list(block.modules()):
            for name, module in parent.named_children():
                if type(module) is DropPath and module.drop_prob > 0 and module.scale_by_keep:
                    setattr(parent, name, CompiledDropPath(module.drop_prob))
        block.compile(**kwargs)


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
