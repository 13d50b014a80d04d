"""Int8 with ranges that are fixed beforehand: NNCF finds them, and an OpenVINO export has them.

NNCF puts fake quantisation between the operations of a torch module, as its modules `__nncf_hooks`;
what the module is called and its weights stay what they were.

Shape legend: `B` batch, `L` tokens, `S` side in pixels.
"""

import os
import warnings
from collections.abc import Collection, Sequence
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from ..modeling_clip_vit import ClipVitModel
from .layers import QuantizationError, is_skipped

#: What NNCF calls the modules that it adds.
HOOKS = "__nncf_hooks"
#: Inputs of a tower: name -> tensor.
Batch = dict[str, torch.Tensor]
#: Towers and their inputs: pixel_values (B, 3, S, S), or input_ids and attention_mask (B, L).
TOWERS: dict[str, tuple[str, ...]] = {
    "vision_model": ("pixel_values",),
    "text_model": ("input_ids", "attention_mask"),
}


def import_nncf() -> Any:
    """Import NNCF, without telemetry and without a time limit for its compiler.

    Raises:
        QuantizationError: NNCF or OpenVINO is not installed.
    """
    # It sends figures of use to its maker unless one of its variables is set, and gives a busy
    # machine a minute to compile its kernels.
    os.environ.setdefault("NNCF_CI", "1")
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")
    try:
        import nncf
        import openvino  # noqa: F401
    except ImportError as error:
        raise QuantizationError(
            f'{error.name} is not installed: pip install "clip-vit[openvino]"'
        ) from error
    nncf.set_log_level(30)
    return nncf


@contextmanager
def quietly():
    """Without the progress bars and warnings of NNCF, torch's tracer and OpenVINO."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def nncf_quantize(
    model_part: nn.Module,
    batches: Sequence[Batch],
    skip: Collection[str] = (),
) -> nn.Module:
    """A copy of a module with NNCF's fake quantisation in it, ranges found from calibration data.

    Weights are symmetric with one range per row; activations have one range per tensor. There is no
    smoothing (SmoothQuant) and no bias correction: both would change the weights.

    Args:
        model_part: a tower.
        batches: its inputs by name, each batch of at least one item.
        skip: patterns of the layers that stay float, as the module calls them.

    Returns:
        The copy, in evaluation mode.

    Raises:
        QuantizationError: NNCF is not installed, or there is no calibration data.
    """
    nncf = import_nncf()
    from nncf.quantization.advanced_parameters import (
        AdvancedQuantizationParameters,
        AdvancedSmoothQuantParameters,
    )

    if not batches:
        raise QuantizationError("there is no calibration data: static ranges need at least a batch")
    advanced = AdvancedQuantizationParameters(
        disable_bias_correction=True,
        smooth_quant_alphas=AdvancedSmoothQuantParameters(convolution=-1, matmul=-1),
    )
    model_part = model_part.eval()
    with quietly():
        return nncf.quantize(
            deepcopy(model_part),
            nncf.Dataset(list(batches), dict),
            model_type=nncf.ModelType.TRANSFORMER,
            preset=nncf.QuantizationPreset.MIXED,
            subset_size=len(batches),
            ignored_scope=nncf.IgnoredScope(names=operations_of(model_part, batches[0], skip)),
            advanced_parameters=advanced,
        )


def operations_of(module: nn.Module, example: Batch, skip: Collection[str]) -> list[str]:
    """What NNCF calls the operations that use the weights of some layers."""
    if not any(is_skipped(name, skip) for name, _ in module.named_modules()):
        return []
    from nncf.torch.function_hook.nncf_graph.nncf_graph_builder import build_nncf_graph
    from nncf.torch.function_hook.wrapper import wrap_model

    graph = build_nncf_graph(wrap_model(deepcopy(module)), example)
    found: set[str] = set()
    for node in graph.get_all_nodes():
        weight = getattr(node.layer_attributes, "name", "") or ""
        if is_skipped(weight.rpartition(".")[0], skip):
            found.update(user.node_name for user in graph.get_next_nodes(node))
    return sorted(found)


def fake_quantize_towers(
    model: ClipVitModel, batches: dict[str, list[Batch]], skip: Collection[str] = ()
):
    """Let a joint model's towers round as they will in int8 with static ranges, in place.

    Weights stay what they were. The ranges are parameters, and learn (Jain et al., 2019).

    Args:
        model: float.
        batches: calibration data of each tower in `TOWERS`.
        skip: patterns of layers that stay float.
    """
    for tower in TOWERS:
        own = [pattern.removeprefix(f"{tower}.") for pattern in skip]
        setattr(model, tower, nncf_quantize(getattr(model, tower), batches[tower], own))


def has_hooks(module: nn.Module) -> bool:
    """Whether NNCF put its quantisers into a module."""
    return any(HOOKS in name for name, _ in module.named_modules())


def hook_state(model: nn.Module) -> dict[str, torch.Tensor]:
    """The ranges of a model's fake quantisation, by name."""
    return {name: value for name, value in model.state_dict().items() if HOOKS in name}


def range_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The ranges that learn."""
    return [p for name, p in model.named_parameters() if HOOKS in name and p.requires_grad]


def switch_fake(model: nn.Module, is_on: bool):
    """Turn NNCF's rounding on or off; what learns stays what it was."""
    for name, buffer in model.named_buffers():
        if HOOKS in name and name.endswith(".enabled"):
            buffer.fill_(int(is_on))
