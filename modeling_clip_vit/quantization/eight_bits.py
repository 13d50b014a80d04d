"""Weights of 8 to 2 bits with torchao: fake in training, real afterwards, saved as safetensors."""

from collections.abc import Collection
from copy import deepcopy
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel, TorchAoConfig
from transformers.quantizers import AutoHfQuantizer

from ..utils.packages import require

Model = TypeVar("Model", bound=PreTrainedModel)


class Scheme(NamedTuple):
    """How torchao quantises one kind of layer: while it trains, and for good.

    Args:
        weight, activation: fake quantisation of each; None for an activation that stays float.
        real: the actual quantisation.
    """

    weight: Any
    activation: Any
    real: Any


def require_torchao():
    """Check that torchao is installed.

    Raises:
        MissingPackageError: it is not.
    """
    require(("torchao",), "quantize", "quantisation")


def build_scheme(mode: str, bits: int = 8) -> Scheme:
    """How linear layers are quantised.

    Weights are symmetric, with one scale per row. With `dynamic`, activations have a scale and a
    zero point per token: torchao can fake only asymmetric activations, and the real quantisation
    must match.

    Args:
        mode: `dynamic` or `weight_only`.
        bits: of a weight, 8, 4, 3 or 2.

    Raises:
        MissingPackageError: torchao is not installed.
    """
    require_torchao()
    from torchao.quantization import (
        Int8DynamicActivationInt8WeightConfig,
        Int8DynamicActivationIntxWeightConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        MappingType,
        PerAxis,
    )
    from torchao.quantization.qat import IntxFakeQuantizeConfig

    dtype = getattr(torch, f"int{bits}")
    real: dict[tuple[str, bool], Any] = {
        ("dynamic", True): lambda: Int8DynamicActivationInt8WeightConfig(
            act_mapping_type=MappingType.ASYMMETRIC, set_inductor_config=False
        ),
        ("dynamic", False): lambda: Int8DynamicActivationIntxWeightConfig(dtype, PerAxis(0)),
        ("weight_only", True): lambda: Int8WeightOnlyConfig(set_inductor_config=False),
        ("weight_only", False): lambda: IntxWeightOnlyConfig(dtype, PerAxis(0)),
    }
    weight = IntxFakeQuantizeConfig(dtype, "per_channel", is_symmetric=True)
    activation = IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False)
    return Scheme(weight, activation if mode == "dynamic" else None, real[mode, bits == 8]())


def schemes_for(mode: str, bits: int) -> dict[type[nn.Module], Scheme]:
    """How each kind of layer is quantised: an embedding has no activations, and stays in 8 bits."""
    return {nn.Linear: build_scheme(mode, bits), nn.Embedding: build_scheme("weight_only")}


def fake_quantize(model: nn.Module, layers: Collection[str], mode: str, bits: int = 8):
    """Put fake quantisation of weights and inputs into layers, in place.

    Names and weights stay what they were; gradients pass the rounding as if it were not there
    (Bengio et al., 2013).
    """
    from torchao.quantization import quantize_
    from torchao.quantization.qat import QATConfig

    for kind, scheme in schemes_for(mode, bits).items():
        config = QATConfig(
            activation_config=scheme.activation, weight_config=scheme.weight, step="prepare"
        )
        quantize_(model, config, filter_fn=only(layers, kind))


def switch_fake(model: nn.Module, is_on: bool):
    """Turn the rounding of a model from `fake_quantize` on or off."""
    from torchao.quantization.qat import FakeQuantizerBase

    for module in model.modules():
        if isinstance(module, FakeQuantizerBase):
            module.enabled = is_on


def quantize(model: Model, layers: Collection[str], mode: str, bits: int = 8) -> Model:
    """A quantised copy of a float model, ready to be saved.

    Args:
        model: float, without fake quantisation.
        layers: names of linear layers and token embeddings.
        mode: `dynamic` or `weight_only`.
        bits: of a weight.
    """
    quantized = deepcopy(model).eval().requires_grad_(False)
    schemes = schemes_for(mode, bits)
    quantize_layers(quantized, layers, schemes)
    config = TorchAoConfig(
        schemes[nn.Linear].real, modules_to_not_convert=float_modules(model, layers)
    )
    quantized.config.quantization_config = config
    quantized.hf_quantizer = AutoHfQuantizer.from_config(config, pre_quantized=True)
    return quantized


def quantize_layers(
    model: nn.Module, layers: Collection[str], schemes: dict[type[nn.Module], Scheme]
):
    """Make layers' weights integers, in place."""
    from torchao.quantization import quantize_

    for kind, scheme in schemes.items():
        quantize_(model, scheme.real, filter_fn=only(layers, kind))


def only(layers: Collection[str], kind: type[nn.Module]):
    """A filter for torchao that selects modules of one kind by name."""
    return lambda module, name: isinstance(module, kind) and name in layers


def float_modules(model: nn.Module, layers: Collection[str]) -> list[str]:
    """Linear layers that stay float, as the configuration of a quantised model lists them."""
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name not in layers
    ]


def without_fakes(model: Model) -> Model:
    """A float model with the weights of one with fake quantisation."""
    float_model: Any = type(model)(deepcopy(model.config))
    state = model.state_dict()
    float_model.load_state_dict({name: state[name] for name in float_model.state_dict()})
    return float_model.to(model.device).eval()
