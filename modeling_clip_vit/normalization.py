"""Normalisation layers, chosen by `config.norm_type`.

To add one: write the layer, and give it a line in `NORM_LAYERS`.

Shape legend: `B` batch, `L` sequence, `D` features.
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

    def forward(self, hidden_BLD: torch.Tensor, mask_BL=None) -> torch.Tensor:
        return super().forward(hidden_BLD)


class RMSNorm(nn.RMSNorm):
    """Each token to a mean square of 1 (Zhang and Sennrich, 2019, section 4)."""

    def __init__(self, config: TowerConfig, size: int):
        super().__init__(size, eps=config.layer_norm_eps)

    def forward(self, hidden_BLD: torch.Tensor, mask_BL=None) -> torch.Tensor:
        return super().forward(hidden_BLD)


class GroupNorm(nn.GroupNorm):
    """LayerNorm over groups of a token's features (Wu and He, 2018, section 3).

    Each group is within one token: over several tokens, it would mix tokens with each other and
    with padding.
    """

    def __init__(self, config: TowerConfig, size: int):
        super().__init__(config.num_norm_groups, size, eps=config.layer_norm_eps)

    def forward(self, hidden_BLD: torch.Tensor, mask_BL=None) -> torch.Tensor:
        return super().forward(hidden_BLD.flatten(0, -2)).view_as(hidden_BLD)


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

    def forward(self, hidden_BLD: torch.Tensor, mask_BL=None) -> torch.Tensor:
        mean_D, var_D = self.running_mean, self.running_var
        if self.training:
            mean_D, var_D = self.measure(hidden_BLD, mask_BL)
        factor_D = upcast(self.weight) * torch.rsqrt(upcast(var_D) + self.eps)
        shift_D = upcast(self.bias) - upcast(mean_D) * factor_D
        return (upcast(hidden_BLD) * factor_D + shift_D).to(hidden_BLD.dtype)

    def measure(self, hidden_BLD: torch.Tensor, mask_BL) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of this batch; they also move the running ones."""
        hidden_ND = upcast(hidden_BLD).flatten(0, -2)
        weight_N1 = torch.ones_like(hidden_ND[:, :1])
        if mask_BL is not None:
            weight_N1 = mask_BL.reshape(-1, 1).to(hidden_ND.dtype)
        mean_D, var_D, count = global_statistics(hidden_ND, weight_N1)
        move_running_statistics(self, mean_D, var_D, count)
        return mean_D, var_D


class ImageBatchNorm(nn.BatchNorm2d):
    """Each channel to mean 0 and variance 1 over all pixels of the batch, over all processes.

    torch's own `SyncBatchNorm` does not run on a CPU.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not (self.training and count_processes() > 1):
            return super().forward(input)
        pixels_BHWC = upcast(input).movedim(1, -1)
        pixels_ND = pixels_BHWC.flatten(0, -2)
        mean_D, var_D, count = global_statistics(pixels_ND, torch.ones_like(pixels_ND[:, :1]))
        move_running_statistics(self, mean_D, var_D, count)
        factor_D = upcast(self.weight) * torch.rsqrt(var_D + self.eps)
        shift_D = upcast(self.bias) - mean_D * factor_D
        return (pixels_BHWC * factor_D + shift_D).movedim(-1, 1).to(input.dtype)


def global_statistics(
    values_ND: torch.Tensor, weight_N1: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mean and variance (D,) of the rows that weigh 1, over all processes, and their number."""
    count = sum_over_processes(weight_N1.sum())
    mean_D = sum_over_processes((values_ND * weight_N1).sum(dim=0)) / count
    squares_D = ((values_ND - mean_D).square() * weight_N1).sum(dim=0)
    return mean_D, sum_over_processes(squares_D) / count, count


@torch.no_grad()
def move_running_statistics(norm, mean_D, var_D, count):
    """Move the running mean and (unbiased) variance of a norm towards those of a batch."""
    unbiased_D = var_D * count / (count - 1).clamp(min=1)
    norm.running_mean.lerp_(mean_D.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_(unbiased_D.to(norm.running_var.dtype), norm.momentum)


def upcast(values: torch.Tensor) -> torch.Tensor:
    """Upcast half precision to float32, so that sums over many values keep their precision."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def count_processes() -> int:
    """How many processes train together."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return 1


def sum_over_processes(value: torch.Tensor) -> torch.Tensor:
    """The sum over all processes, with its gradient; the value itself where there is but one."""
    if count_processes() > 1:
        from torch.distributed.nn.functional import all_reduce

        return all_reduce(value)
    return value


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

    def forward(self, hidden_BLD: torch.Tensor, mask_BL=None) -> torch.Tensor:
        return torch.tanh(self.alpha * hidden_BLD) * self.weight + self.bias


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
        size: number of features; `config.hidden_size` unless given.
    """
    return NORM_LAYERS[config.norm_type](config, size or config.hidden_size)


def build_final_norm(config: TowerConfig) -> Any:
    """The norm after the last block, over tokens or over what is pooled of them."""
    if config.final_norm == "none":
        return None
    size = config.hidden_size if config.final_norm == "before_pooling" else config.pooled_size
    return build_norm(config, size)
