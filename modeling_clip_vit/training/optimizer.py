"""Optimiser and parameter groups."""

import torch
from timm.optim import Muon
from torch import nn

from .arguments import OptimizerOptions
from .learning import learning_rate_scales


def build_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """AdamW, or Muon (Jordan et al., 2024) for matrices and convolutions and AdamW for the rest.

    Matrices and convolution kernels decay; embeddings, norms, biases and the logit scale do not.
    With `layer_decay`, weights of equal depth share a learning rate.
    """
    scales = learning_rate_scales(model, options.layer_decay)
    matrices, rest = split_parameters(model)
    betas = (options.adam_beta1, options.adam_beta2)
    is_muon = options.optim == "muon"
    matrix_rate = options.muon_learning_rate if is_muon else options.learning_rate
    groups = [
        {"params": members, "lr": matrix_rate * scale, "weight_decay": options.weight_decay}
        for scale, members in by_scale(matrices, scales)
    ]
    plain = {"weight_decay": 0.0, **({"use_fallback": True} if is_muon else {})}
    groups += [
        {"params": members, "lr": options.learning_rate * scale, **plain}
        for scale, members in by_scale(rest, scales)
    ]
    if not is_muon:
        return torch.optim.AdamW(groups, betas=betas, fused=True)
    return Muon(
        groups,
        weight_decay=options.weight_decay,
        betas=betas,
        nesterov=True,
        adjust_lr_fn="original",
    )


def by_scale(
    parameters: list[nn.Parameter], scales: dict[int, float]
) -> list[tuple[float, list[nn.Parameter]]]:
    """Parameters grouped by the factor of their learning rate, 1 unless `scales` has another."""
    groups: dict[float, list[nn.Parameter]] = {}
    for parameter in parameters:
        groups.setdefault(scales.get(id(parameter), 1.0), []).append(parameter)
    return list(groups.items())


def split_parameters(model: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Trainable weights of linear and convolution layers, and all other trainable parameters."""
    matrices = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)
    }
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return (
        [parameter for parameter in trainable if id(parameter) in matrices],
        [parameter for parameter in trainable if id(parameter) not in matrices],
    )
