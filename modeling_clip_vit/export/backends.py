"""Turn one part of a CLIP into the graph of another runtime.

Transformers' own exporters do the work wherever they can: they trace with torch.export, patch what
a backend cannot lower, name inputs and outputs, and call NNCF and ONNX Runtime to quantise.
"""

import copy
import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers.exporters import ExportedComponent, ExportMetadata
from transformers.exporters.configs import ExportFormat
from transformers.utils import logging as transformers_logging

from ..inference.exported import ExportError
from ..inference.runtimes import require
from ..quantization.static import has_hooks, import_nncf, quietly
from .parts import Shapes, dynamic_shapes

Inputs = dict[str, torch.Tensor]

PRECISIONS = ("fp32", "bf16", "int8")
#: Weights with fewer numbers stay float32 in ONNX's bf16: norms and biases, not worth a cast.
SMALLEST_HALF = 1024


@dataclass(frozen=True)
class Format:
    """A format, and what it takes.

    Args:
        backend: its name among Transformers' exporters.
        extra: the extra of this package that brings its packages.
        packages: what it needs.
        int8_packages: additional packages for int8.
        int8_extra: the extra that brings those.
        needs_calibration: whether its int8 is fitted to inputs.
        precisions, parts: what can be exported.
        is_static: whether the batch is always one.
    """

    backend: str
    extra: str = ""
    packages: tuple[str, ...] = ()
    int8_packages: tuple[str, ...] = ()
    int8_extra: str = "openvino"
    needs_calibration: bool = True
    precisions: tuple[str, ...] = PRECISIONS
    parts: tuple[str, ...] = ("image", "text", "joint")
    is_static: bool = False


FORMATS = {
    # ONNX Runtime's dynamic quantisation measures activations as it runs: it needs no data.
    "onnx": Format("onnx", "onnx", ("onnx", "onnxscript", "onnxruntime"), needs_calibration=False),
    "openvino": Format("openvino", "openvino", ("openvino",), ("nncf",)),
    "torch_export": Format("dynamo", int8_packages=("torchao",), int8_extra="quantize"),
    # XNNPACK plans its memory for one shape.
    "executorch": Format(
        "executorch",
        "executorch",
        ("executorch",),
        precisions=("fp32",),
        parts=("image",),
        is_static=True,
    ),
}


def check_choice(format: str, precision: str, parts: Iterable[str], has_calibration: bool):
    """Refuse what a format does not take, before any work.

    Raises:
        ExportError: the message says what is allowed.
        ValueError: a package is not installed.
    """
    if format not in FORMATS:
        raise ExportError(f"no format {format!r}: there are {', '.join(FORMATS)}")
    chosen = FORMATS[format]
    if precision not in chosen.precisions:
        raise ExportError(
            f"--format {format} does not take --precision {precision}: allowed is "
            f"{', '.join(chosen.precisions)}"
        )
    for part in parts:
        if part not in chosen.parts:
            raise ExportError(
                f"--format {format} does not take the part {part!r}: allowed is "
                f"{', '.join(chosen.parts)}"
            )
    require(chosen.packages, chosen.extra, f"--format {format}")
    if precision == "int8":
        require(chosen.int8_packages, chosen.int8_extra, f"--format {format} --precision int8")
        if chosen.needs_calibration and not has_calibration:
            raise ExportError(
                f"--format {format} --precision int8 is fitted to data: name a dataset of images "
                "and captions by --calibration"
            )


def convert(
    module: nn.Module,
    inputs: Inputs,
    shapes: Shapes,
    format: str,
    precision: str,
    calibration: list[Inputs] | None = None,
) -> ExportedComponent:
    """Export a module.

    Args:
        module: a part of `parts.PARTS`, in float32; it stays as it is.
        inputs: an example of what it takes.
        shapes: the sizes of its model.
        format: a key of `FORMATS`.
        precision: of its weights, `fp32`, `bf16` or `int8`.
        calibration: inputs to fit int8 to, one a list entry.

    Returns:
        The graph, ready for `transformers.exporters.ExportedModel`.
    """
    if format == "openvino":
        source = to_bfloat16(module) if precision == "bf16" else module
        component = convert_openvino(source, inputs, shapes)
        if precision == "int8" and not has_hooks(module):
            component.program = quantize_openvino(component.program, inputs, calibration)
        return component
    exporter, config_class = exporter_of(format)
    options: dict[str, Any] = {}
    if not FORMATS[format].is_static:
        options["dynamic_shapes"] = dynamic_shapes(shapes, inputs)
    if format == "onnx" and precision == "int8":
        options["quantizer"] = onnx_quantizer()
    if format == "torch_export" and precision == "int8":
        options["quantizer"] = torch_quantizer(calibration)
    if format == "torch_export" and precision == "bf16":
        module = to_bfloat16(module)
    component = export_with(exporter, module, inputs, config_class(**options))
    if format == "onnx" and precision == "bf16":
        store_in_bfloat16(component.program)
    return component


def exporter_of(format: str) -> tuple[Any, Any]:
    """An exporter of Transformers and the class of its configuration."""
    from transformers.exporters.auto import get_exporter_class

    with quiet():
        exporter = get_exporter_class(FORMATS[format].backend)()
    return exporter, exporter.config_class


def export_with(exporter: Any, module: nn.Module, inputs: Inputs, config: Any) -> ExportedComponent:
    """Run an exporter of Transformers on one module."""
    with quiet():
        exported = exporter.export(module, dict(inputs), config)
    return exported.components["model"]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters and quantisers log about their versions and every node."""
    names = ("torch.onnx", "nncf", "root")
    loggers = [logging.getLogger(name if name != "root" else None) for name in names]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def to_bfloat16(module: nn.Module) -> nn.Module:
    """A copy with weights in bfloat16."""
    return copy.deepcopy(module).to(torch.bfloat16)


def convert_openvino(module: nn.Module, inputs: Inputs, shapes: Shapes) -> ExportedComponent:
    """Export a module as an OpenVINO graph.

    torch.export, and so Transformers' exporter, cannot trace NNCF's fake quantisation, whose
    modules branch on their own state: such a module takes OpenVINO's own converter, as NNCF's
    documentation has it.
    """
    if has_hooks(module):
        import_nncf()
        import openvino

        with quiet(), quietly(), torch.no_grad():
            program = openvino.convert_model(module, example_input=dict(inputs))
        component = ExportedComponent(program, ExportMetadata(type(module).__name__))
    else:
        exporter, config_class = exporter_of("openvino")
        config = config_class(dynamic_shapes=dynamic_shapes(shapes, inputs))
        component = export_with(exporter, module, inputs, config)
    # The frontend leaves every side of an image open, though only the batch is.
    if "pixel_values" in inputs:
        size = shapes.image_size
        component.program.reshape({"pixel_values": [-1, shapes.num_channels, size, size]})
    own_constants(component.program)
    return component


def own_constants(program: Any):
    """Copy the bfloat16 constants of an OpenVINO graph, in place, while its source still exists.

    OpenVINO's frontend keeps only the address of such tensors: once the source is freed, the graph
    would read other data.
    """
    from openvino import Type, op

    for operation in program.get_ordered_ops():
        if operation.get_type_name() == "Constant" and operation.get_element_type() == Type.bf16:
            own = op.Constant(operation.get_tensor_view(), shared_memory=False)
            own.set_friendly_name(operation.get_friendly_name())
            operation.output(0).replace(own.output(0))


def quantize_openvino(program: Any, inputs: Inputs, calibration: list[Inputs] | None) -> Any:
    """Quantise an OpenVINO graph to int8: NNCF's post-training quantisation, with SmoothQuant.

    It covers linear layers, embedding tables and the patch convolution. Projections stay float,
    and so do the logits: they run once per image or text, and a badly fitting range costs most on
    pooled features.
    """
    from transformers.exporters import NNCFOpenVINOQuantizer, NNCFQuantizationConfig

    assert calibration, "check_choice asks for it"
    nncf = import_nncf()
    scope = nncf.IgnoredScope(names=products_of_vectors(program))
    config = NNCFQuantizationConfig(subset_size=len(calibration), ignored_scope=scope)
    quantizer = NNCFOpenVINOQuantizer(config, calibration_dataset=calibration)
    with quiet():
        return quantizer.quantize(program, dict(inputs), ExportFormat.OPENVINO)


def products_of_vectors(program: Any) -> list[str]:
    """The names of an OpenVINO graph's matrix products after pooling.

    Going back from the results, tensors have two dimensions until pooling, and more before it.
    """
    found, seen = [], set()
    waiting = [result.input_value(0) for result in program.get_results()]
    while waiting:
        value = waiting.pop()
        operation = value.get_node()
        name = operation.get_friendly_name()
        if name in seen or value.get_partial_shape().rank != 2:
            continue
        seen.add(name)
        if operation.get_type_name() == "MatMul":
            found.append(name)
        waiting.extend(operation.input_values())
    return found


def torch_quantizer(calibration: list[Inputs] | None) -> Any:
    """torchao's quantisation of the graph of torch.export, for its compiler on x86.

    NNCF's quantisation of such graphs is not used, because it fails on the masks of a text tower.
    """
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from transformers.exporters import PT2EQuantizer

    assert calibration, "check_choice asks for it"
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    return PT2EQuantizer(quantizer, calibration_dataset=calibration)


def onnx_quantizer() -> Any:
    """ONNX Runtime's dynamic quantisation, a scale for each output channel.

    Convolutions stay float, because its integer ones are slower. Static ranges from a few images
    were further from the source at B/32.
    """
    from onnxruntime.quantization.registry import IntegerOpsRegistry
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    operations = [name for name in IntegerOpsRegistry if name != "Conv"]
    config = OnnxRuntimeDynamicConfig(op_types_to_quantize=operations, per_channel=True)
    return OnnxRuntimeQuantizer(config)


def store_in_bfloat16(model: Any):
    """Keep large weights of an ONNX graph in bfloat16, and cast them when it is loaded.

    ONNX Runtime has no bfloat16 product for the CPU: this halves the file, and it computes in
    float32.
    """
    import ml_dtypes
    import onnx_ir

    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor.dtype != onnx_ir.DataType.FLOAT or tensor.size < SMALLEST_HALF:
            continue
        half = np.asarray(tensor.numpy()).astype(ml_dtypes.bfloat16)
        name = f"{value.name}.bf16"
        stored = onnx_ir.val(name, const_value=onnx_ir.tensor(half, name=name))
        cast = onnx_ir.node("Cast", [stored], {"to": onnx_ir.DataType.FLOAT})
        cast.outputs[0].shape, cast.outputs[0].type = value.shape, value.type
        onnx_ir.convenience.replace_all_uses_with(value, cast.outputs[0])
        graph.insert_before(graph[0], cast)
        del graph.initializers[value.name]
        graph.register_initializer(stored)
