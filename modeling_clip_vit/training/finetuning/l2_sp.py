"""L2-SP: a penalty for the distance to the weights at the start."""

from collections.abc import Iterable

import torch
from torch import nn

from ...utils.processes import full_tensor


class StartPenalty:
    r"""Pulls weights back to where they started.

    .. math:: \mathcal L + \frac{\alpha}{2} \lVert w - w_0 \rVert_2^2

    (Li et al., 2018, "Explicit inductive bias for transfer learning", equation 2). Its gradient is
    added to that of the loss once per update, so it is right with accumulated gradients, and over
    processes, where each adds it to its averaged gradients or to its shard.

    Args:
        parameters: those to hold, as the accelerator prepared them; their present values are w₀.
        weight: α.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight: float):
        self.weight = weight
        self.starts = [(one, one.detach().clone()) for one in parameters if one.requires_grad]

    @torch.no_grad()
    def add_gradient(self, loss_scale: float = 1.0):
        """Add the gradient of the penalty to the parameters that have a gradient.

        Args:
            loss_scale: what the gradients are multiplied by, in float16.
        """
        for parameter, start in self.starts:
            if parameter.grad is not None:
                parameter.grad.add_(parameter - start, alpha=self.weight * loss_scale)

    @torch.no_grad()
    def value(self) -> float:
        """The penalty; all processes call it."""
        squares = (full_tensor((one - start).square().sum()) for one, start in self.starts)
        return self.weight / 2 * float(sum(squares))
