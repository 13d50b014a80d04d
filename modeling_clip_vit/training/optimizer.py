"""Optimiser and parameter groups."""

import torch
from timm.optim import Muon
from torch import nn

from .arguments import OptimizerOptions


def build_optimizer(model: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """AdamW, or Muon (Jordan et al., 2024) for matrices and convolutions and AdamW for the rest.

    Matrices and convolution kernels decay; embeddings, norms, biases and the logit scale do not.
    """
    matrices, rest = split_parameters(model)
    betas = (options.adam_beta1, options.adam_beta2)
    if options.optim == "adamw":
        groups = [
            {"params": matrices, "weight_decay": options.weight_decay},
            {"params": rest, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=betas, fused=True)
    groups = [
        {"params": matrices, "lr": options.muon_learning_rate},
        {"params": rest, "lr": options.learning_rate, "weight_decay": 0.0, "use_fallback": True},
    ]
    return Muon(
        groups,
        weight_decay=options.weight_decay,
        betas=betas,
        nesterov=True,
        adjust_lr_fn="original",
    )


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
