"""Int8 with fixed ranges: NNCF estimates them, training adjusts them, OpenVINO exports them.

NNCF puts fake quantisation between the operations of a torch module, as its modules `__nncf_hooks`;
what the module is called and its weights stay what they were.

Shape legend: `B` batch, `L` tokens, `S` side in pixels.
"""

from collections.abc import Collection, Sequence
from copy import deepcopy

import torch
from torch import nn

from ..modeling_clip_vit import ClipVitModel
from ..runtimes.openvino import HOOKS, import_nncf, without_warnings
from .layers import QuantizationError, is_skipped

#: Inputs of a tower: name -> tensor.
Batch = dict[str, torch.Tensor]
#: Towers and their inputs: pixel_values (B, 3, S, S), or input_ids and attention_mask (B, L).
TOWERS: dict[str, tuple[str, ...]] = {
    "vision_model": ("pixel_values",),
    "text_model": ("input_ids", "attention_mask"),
}


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
        QuantizationError: there is no calibration data.
        MissingPackageError: NNCF is not installed.
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
    with without_warnings():
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
    operations: set[str] = set()
    for node in graph.get_all_nodes():
        weight = getattr(node.layer_attributes, "name", "") or ""
        if is_skipped(weight.rpartition(".")[0], skip):
            operations.update(user.node_name for user in graph.get_next_nodes(node))
    return sorted(operations)


def fake_quantize_towers(
    model: ClipVitModel, batches: dict[str, list[Batch]], skip: Collection[str] = ()
):
    """Put fake quantisation with fixed ranges into both towers of a joint model, in place.

    Weights stay what they were. The ranges are parameters, and learn (Jain et al., 2019).

    Args:
        model: float.
        batches: calibration data of each tower in `TOWERS`.
        skip: patterns of layers that stay float.
    """
    for tower in TOWERS:
        patterns = [pattern.removeprefix(f"{tower}.") for pattern in skip]
        setattr(model, tower, nncf_quantize(getattr(model, tower), batches[tower], patterns))


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
