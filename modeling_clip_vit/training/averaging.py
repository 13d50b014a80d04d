"""A running mean of the weights, which is often better than the last weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor

from ..utils.processes import full_tensor


class WeightAverage:
    """Exponential moving average (Polyak and Juditsky, 1992; Kingma and Ba, 2015, section 7.2).

    Args:
        model: the model whose trainable weights are averaged.
        decay: decay rate of the mean; it is lower for the first updates, so that the random weights
            of the start are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        self.updates = 0
        self.names = [name for name, p in model.named_parameters() if p.requires_grad]
        self.live: list[torch.Tensor] = [p for p in model.parameters() if p.requires_grad]
        self.means = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self):
        """Move the mean towards the current weights."""
        self.updates += 1
        decay = min(self.decay, self.updates / (self.updates + 9))
        torch._foreach_lerp_(self.means, self.live, 1 - decay)

    @torch.no_grad()
    def restart(self, part: str):
        """Restart the mean from the current weights, for those whose names contain `part`."""
        for name, mean, live in zip(self.names, self.means, self.live, strict=True):
            if part in name:
                mean.copy_(live)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Use the mean as the model's weights within a `with` statement."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self):
        """Exchange the mean and the weights."""
        for mean, live in zip(self.means, self.live, strict=True):
            weights = live.clone()
            live.copy_(mean)
            mean.copy_(weights)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The mean by name; all processes must call this.

        Where it is sharded, it is gathered one weight at a time to the main process's CPU: it may
        not fit on a device as a whole. Other processes then get nothing.
        """
        state: dict[str, torch.Tensor] = {}
        for name, mean in zip(self.names, self.means, strict=True):
            whole = full_tensor(mean).contiguous()
            if not isinstance(mean, DTensor):
                state[name] = whole
            elif dist.get_rank() == 0:
                state[name] = whole.cpu()
        return state

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, torch.Tensor]):
        """Continue from a saved mean."""
        for name, mean in zip(self.names, self.means, strict=True):
            value = state[name]
            if isinstance(mean, DTensor):
                value = distribute_tensor(value.to(mean.device), mean.device_mesh, mean.placements)
            mean.copy_(value)
