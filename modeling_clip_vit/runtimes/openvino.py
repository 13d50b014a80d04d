"""OpenVINO, and NNCF, which quantises for it."""

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..utils.packages import require
from .exporters import TransformersRuntime, quiet, to_bfloat16
from .runtime import GraphSource, Inputs, Session

#: What NNCF calls the modules that it adds to a torch module for its fake quantisation.
HOOKS = "__nncf_hooks"


class OpenVino(TransformersRuntime):
    """OpenVINO; it also runs ONNX."""

    name = "openvino"
    format = "openvino"
    other_formats = ("onnx",)
    exporter = "openvino"
    packages = ("openvino",)
    extra = "openvino"
    int8_packages = ("nncf",)
    int8_extra = "openvino"
    example_imports = "import openvino\n"
    example_run = """

def run(part, inputs):
    path = folder / export["components"][part]["file"]
    precision = {"INFERENCE_PRECISION_HINT": "bf16" if export["precision"] == "bf16" else "f32"}
    return list(openvino.Core().compile_model(path, "CPU", precision)(inputs).values())
"""

    def convert(self, source: GraphSource) -> Any:
        """Convert a module to an OpenVINO graph.

        torch.export, and so Transformers' exporter, cannot trace NNCF's fake quantisation, whose
        modules branch on their own state: such a module takes OpenVINO's own converter, as NNCF's
        documentation has it, and keeps its ranges.
        """
        inputs = source.inputs
        is_quantized = has_hooks(source.module)
        if source.precision == "bf16":
            source = to_bfloat16(source)
        if is_quantized:
            component = trace_fake_quantized(source.module, inputs)
        else:
            component = self.trace(source)
        # The frontend leaves every side of an image open, though only the batch is, or for patches
        # also their number.
        if "spatial_shapes" in inputs:
            width = inputs["pixel_values"].shape[-1]
            component.program.reshape({"pixel_values": [-1, -1, width], "spatial_shapes": [-1, 2]})
        elif "pixel_values" in inputs:
            sides = inputs["pixel_values"].shape[1:]
            component.program.reshape({"pixel_values": [-1, *sides]})
        copy_constants(component.program)
        if source.precision == "int8" and not is_quantized:
            component.program = quantize_program(component.program, inputs, source.samples)
        return component

    def open(self, path: Path, precision: str, threads: int | None) -> Session:
        """A compiled model of OpenVINO."""
        # By itself, OpenVINO computes float32 models in bfloat16 where the processor can.
        options: dict = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
        if threads is not None:
            options["INFERENCE_NUM_THREADS"] = threads
        compiled = openvino_core().compile_model(path, "CPU", options)

        def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            outputs = compiled(dict(inputs))
            return {port.get_any_name(): np.array(outputs[port]) for port in compiled.outputs}

        return run


@cache
def openvino_core() -> Any:
    """The one core of this process.

    Each core gives the main thread a signal stack, and restores the previous one when it is
    destroyed. If several are destroyed in the order of their creation, the last one restores a
    stack that no longer exists, and the next child process that ends would kill this one.
    """
    import openvino

    return openvino.Core()


def trace_fake_quantized(module: nn.Module, inputs: Inputs) -> Any:
    """Convert a module with NNCF's fake quantisation by OpenVINO's own converter."""
    import_nncf()
    import openvino
    from transformers.exporters import ExportedComponent, ExportMetadata

    with quiet(), without_warnings(), torch.no_grad():
        program = openvino.convert_model(module, example_input=dict(inputs))
    return ExportedComponent(program, ExportMetadata(type(module).__name__))


def copy_constants(program: Any):
    """Copy the bfloat16 constants of an OpenVINO graph, in place, while its source still exists.

    OpenVINO's frontend keeps only the address of such tensors: once the source is freed, the graph
    would read other data.
    """
    from openvino import Type, op

    for operation in program.get_ordered_ops():
        if operation.get_type_name() == "Constant" and operation.get_element_type() == Type.bf16:
            constant = op.Constant(operation.get_tensor_view(), shared_memory=False)
            constant.set_friendly_name(operation.get_friendly_name())
            operation.output(0).replace(constant.output(0))


def quantize_program(program: Any, inputs: Inputs, samples: list[Inputs]) -> Any:
    """Quantise an OpenVINO graph to int8: NNCF's post-training quantisation, with SmoothQuant.

    It covers linear layers, embedding tables and the patch convolution. Projections stay float,
    and so do the logits: they run once per image or text, and a badly fitting range costs most on
    pooled features.
    """
    from transformers.exporters import NNCFOpenVINOQuantizer, NNCFQuantizationConfig
    from transformers.exporters.configs import ExportFormat

    assert samples, "check_choice rejects int8 without calibration data"
    nncf = import_nncf()
    scope = nncf.IgnoredScope(names=products_after_pooling(program))
    config = NNCFQuantizationConfig(subset_size=len(samples), ignored_scope=scope)
    quantizer = NNCFOpenVINOQuantizer(config, calibration_dataset=samples)
    with quiet():
        return quantizer.quantize(program, dict(inputs), ExportFormat.OPENVINO)


def products_after_pooling(program: Any) -> list[str]:
    """The names of an OpenVINO graph's matrix products after pooling.

    Going back from the results, tensors have two dimensions until pooling, and more before it.
    """
    products, seen = [], set()
    waiting = [result.input_value(0) for result in program.get_results()]
    while waiting:
        value = waiting.pop()
        operation = value.get_node()
        name = operation.get_friendly_name()
        if name in seen or value.get_partial_shape().rank != 2:
            continue
        seen.add(name)
        if operation.get_type_name() == "MatMul":
            products.append(name)
        waiting.extend(operation.input_values())
    return products


def has_hooks(module: nn.Module) -> bool:
    """Whether NNCF put its fake quantisation into a module."""
    return any(HOOKS in name for name, _ in module.named_modules())


def import_nncf() -> Any:
    """Import NNCF, without telemetry and without a time limit for its compiler.

    Raises:
        MissingPackageError: NNCF or OpenVINO is not installed.
    """
    require(("nncf", "openvino"), "openvino", "int8 with fixed ranges")
    # It sends figures of use to its maker unless one of its variables is set, and gives a busy
    # machine a minute to compile its kernels.
    os.environ.setdefault("NNCF_CI", "1")
    os.environ.setdefault("NNCF_EXTENSION_LOAD_TIMEOUT", "0")
    import nncf

    nncf.set_log_level(30)
    return nncf


@contextmanager
def without_warnings() -> Iterator[None]:
    """Without the warnings of NNCF, torch's tracer and OpenVINO."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
