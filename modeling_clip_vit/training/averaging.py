"""A running mean of the weights, which is often better than the last weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


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

    def tensors(self) -> dict[str, torch.Tensor]:
        """The mean by name, sharded where the weights are."""
        return dict(zip(self.names, self.means, strict=True))
