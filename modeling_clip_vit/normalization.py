"""Normalisation layers, chosen by `config.norm_type`.

To add one: write the layer, and add it to `NORM_LAYERS` and its name to `NORM_TYPES` in the
configuration. A layer with parameters sets them in a method `initialize`.

Shape legend: `B` batch, `D` hidden (features), `N` tokens of all rows, `X` and `Y` columns and rows
of pixels.
"""

from typing import Any

import torch
from torch import distributed, nn
from transformers import initialization as init

from .configuration_clip_vit import TowerConfig


class LayerNorm(nn.LayerNorm):
    """Each token to mean 0 and variance 1 over its features (Ba et al., 2016, section 3)."""

    def __init__(self, config: TowerConfig, size: int):
        super().__init__(size, eps=config.layer_norm_eps)

    def forward(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return super().forward(hidden_states)


class RMSNorm(nn.RMSNorm):
    """Each token to a mean square of 1 (Zhang and Sennrich, 2019, section 4)."""

    def __init__(self, config: TowerConfig, size: int):
        super().__init__(size, eps=config.layer_norm_eps)

    def forward(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return super().forward(hidden_states)


class GroupNorm(nn.GroupNorm):
    """LayerNorm over groups of a token's features (Wu and He, 2018, section 3).

    Each group is within one token: over several tokens, it would mix tokens with each other and
    with padding.
    """

    def __init__(self, config: TowerConfig, size: int):
        super().__init__(config.num_norm_groups, size, eps=config.layer_norm_eps)

    def forward(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return super().forward(hidden_states.flatten(0, -2)).view_as(hidden_states)


class BatchNorm(nn.Module):
    """Each feature to mean 0 and variance 1 over all tokens (Ioffe and Szegedy, 2015, section 3).

    Padded tokens do not count. In training the statistics are those of the whole batch, over all
    processes; in evaluation they are the running ones, which are saved with the weights.
    """

    momentum = 0.1

    def __init__(self, config: TowerConfig, size: int):
        super().__init__()
        self.eps = config.layer_norm_eps
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.running_mean: torch.Tensor
        self.running_var: torch.Tensor
        self.register_buffer("running_mean", torch.zeros(size))
        self.register_buffer("running_var", torch.ones(size))

    def initialize(self):
        """The identity."""
        init.ones_(self.weight)
        init.zeros_(self.bias)
        init.zeros_(self.running_mean)
        init.ones_(self.running_var)

    def forward(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        mean_D, var_D = self.running_mean, self.running_var
        if self.training:
            mean_D, var_D = self.measure(hidden_states, mask)
        factor_D = upcast(self.weight) * torch.rsqrt(upcast(var_D) + self.eps)
        shift_D = upcast(self.bias) - upcast(mean_D) * factor_D
        return (upcast(hidden_states) * factor_D + shift_D).to(hidden_states.dtype)

    def measure(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of this batch, which also move the running ones."""
        hidden_ND = upcast(hidden_states).flatten(0, -2)
        weight_N1 = torch.ones_like(hidden_ND[:, :1])
        if mask is not None:
            weight_N1 = mask.reshape(-1, 1).to(hidden_ND.dtype)
        mean_D, var_D, count = global_statistics(hidden_ND, weight_N1)
        move_running_statistics(self, mean_D, var_D, count)
        return mean_D, var_D


class ImageBatchNorm(nn.BatchNorm2d):
    """Each channel to mean 0 and variance 1 over all pixels of the batch, over all processes.

    torch's own `SyncBatchNorm` does not run on a CPU.
    """

    # As long as statistics are tracked, none of these is None.
    running_mean: torch.Tensor
    running_var: torch.Tensor
    momentum: float

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (self.training and count_processes() > 1):
            return super().forward(input)
        pixels_BYXD = upcast(input).movedim(1, -1)
        pixels_ND = pixels_BYXD.flatten(0, -2)
        mean_D, var_D, count = global_statistics(pixels_ND, torch.ones_like(pixels_ND[:, :1]))
        move_running_statistics(self, mean_D, var_D, count)
        factor_D = upcast(self.weight) * torch.rsqrt(var_D + self.eps)
        shift_D = upcast(self.bias) - mean_D * factor_D
        return (pixels_BYXD * factor_D + shift_D).movedim(-1, 1).to(input.dtype)


def global_statistics(
    values: torch.Tensor, weight: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and variance, (D,), of the rows of weight 1 over all processes, and their number.

    Args:
        values: one row per token, (N, D).
        weight: 1 for a row that counts and 0 for padding, (N, 1).
    """
    count = sum_over_processes(weight.sum())
    mean_D = sum_over_processes((values * weight).sum(dim=0)) / count
    squares_D = ((values - mean_D).square() * weight).sum(dim=0)
    return mean_D, sum_over_processes(squares_D) / count, count


@torch.no_grad()
def move_running_statistics(
    norm: BatchNorm | ImageBatchNorm, mean: torch.Tensor, var: torch.Tensor, count: torch.Tensor
):
    """Move the running mean and (unbiased) variance of a norm towards those of a batch."""
    unbiased_D = var * count / (count - 1).clamp(min=1)
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(unbiased_D.to(norm.running_var.dtype), norm.momentum)


def upcast(values: torch.Tensor) -> torch.Tensor:
    """Upcast half precision to float32, so that sums over many values keep their precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def count_processes() -> int:
    """The number of processes that train together."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, with its gradient; the value itself in a single process."""
    return _SumOverProcesses.apply(value) if count_processes() > 1 else value


class _SumOverProcesses(torch.autograd.Function):
    """An all-reduce; the gradient of each process's value is the sum of all gradients."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        total = value.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


class DynamicTanh(nn.Module):
    """`tanh(alpha x)` in place of a norm, with one learned alpha (Zhu et al., 2025, section 4)."""

    alpha_init_value = 0.5

    def __init__(self, config: TowerConfig, size: int):
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), self.alpha_init_value))
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))

    def initialize(self):
        """`tanh(x / 2)`."""
        init.constant_(self.alpha, self.alpha_init_value)
        init.ones_(self.weight)
        init.zeros_(self.bias)

    def forward(
        self, hidden_states: torch.Tensor, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        return torch.tanh(self.alpha * hidden_states) * self.weight + self.bias


#: `norm_type` -> layer built with (config, size): (hidden (B, L, D), mask (B, L)) to (B, L, D).
NORM_LAYERS: dict[str, type[nn.Module]] = {
    "layernorm": LayerNorm,
    "rmsnorm": RMSNorm,
    "groupnorm": GroupNorm,
    "batchnorm": BatchNorm,
    "dyt": DynamicTanh,
}


def build_norm(config: TowerConfig, size: int | None = None) -> nn.Module:
    """Build the normalisation layer that `config.norm_type` names.

    Args:
        config: a tower's configuration (`norm_type`, `layer_norm_eps`, `num_norm_groups`).
        size: number of features; `config.hidden_size` by default.
    """
    return NORM_LAYERS[config.norm_type](config, size or config.hidden_size)


def build_final_norm(config: TowerConfig) -> nn.Module:
    """The norm after the last block, over tokens or their pooled output; the identity for none."""
    if config.final_norm == "none":
        return nn.Identity()
    size = config.hidden_size if config.final_norm == "before_pooling" else config.pooled_size
    return build_norm(config, size)
