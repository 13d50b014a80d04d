"""Optimiser, parameter groups, layer-wise learning-rate decay and schedule."""

import torch
from torch import nn
from transformers import get_scheduler
from transformers.optimization import Adafactor

from .blocks import depths
from .muon import Muon
from .options import OptimizerOptions


def build_optimizer(
    model: nn.Module, options: OptimizerOptions, product_dtype: torch.dtype = torch.float32
) -> torch.optim.Optimizer:
    """AdamW, Adafactor (Shazeer and Stern, 2018), or Muon for matrices and AdamW for the rest.

    Muon (Jordan et al., 2024) also takes convolution kernels, as matrices.

    Weight decay applies to matrices and convolution kernels, not to embeddings, norms, biases and
    the logit scale. With `layer_decay`, weights of equal depth have the same learning rate.

    Args:
        model: may still be on the CPU.
        options: which optimiser, and how it updates.
        product_dtype: dtype that Muon multiplies matrices in.
    """
    scales = learning_rate_scales(model, options.layer_decay)
    matrices, rest = split_parameters(model)
    betas = (options.adam_beta1, options.adam_beta2)
    is_muon = options.optim == "muon"
    matrix_rate = options.muon_learning_rate if is_muon else options.learning_rate
    groups = [
        {
            "params": members,
            "lr": matrix_rate * scale,
            "weight_decay": options.weight_decay,
            "use_muon": is_muon,
        }
        for scale, members in by_scale(matrices, scales)
    ]
    groups += [
        {
            "params": members,
            "lr": options.learning_rate * scale,
            "weight_decay": 0.0,
            "use_muon": False,
        }
        for scale, members in by_scale(rest, scales)
    ]
    if options.optim == "adamw":
        return torch.optim.AdamW(groups, betas=betas, fused=True)
    if options.optim == "adafactor":
        # Its own schedule and scaling off: the learning rate is the recipe's.
        return Adafactor(groups, relative_step=False, scale_parameter=False, warmup_init=False)
    return Muon(groups, betas=betas, product_dtype=product_dtype)


def build_schedule(
    optimizer: torch.optim.Optimizer, options: OptimizerOptions, max_steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """The learning-rate schedule of Transformers that the options name."""
    warmup = round(options.warmup_ratio * max_steps)
    scheduler_options = {}
    if options.lr_scheduler_type == "warmup_stable_decay":
        scheduler_options["num_decay_steps"] = round(options.decay_ratio * max_steps)
    return get_scheduler(
        options.lr_scheduler_type,
        optimizer,
        num_warmup_steps=warmup,
        num_training_steps=max_steps,
        scheduler_specific_kwargs=scheduler_options,
    )


def learning_rate_scales(model: nn.Module, decay: float) -> dict[int, float]:
    """Factor of each weight's learning rate by `id`: `decay` for each block after its own.

    Layer-wise learning-rate decay (Clark et al., 2020, section 3.2): earlier layers of a pretrained
    tower are more general, so they get a smaller learning rate. Projections and other weights after
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
