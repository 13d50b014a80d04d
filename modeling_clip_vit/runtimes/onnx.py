"""ONNX, run by ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .exporters import TransformersRuntime
from .runtime import GraphSource, Session

#: Weights with fewer numbers stay float32 in bf16: norms and biases, not worth a cast.
SMALLEST_BFLOAT16 = 1024


class OnnxRuntime(TransformersRuntime):
    """ONNX Runtime; its dynamic quantisation measures activations as it runs and needs no data."""

    name = "onnxruntime"
    format = "onnx"
    exporter = "onnx"
    needs_calibration = False
    packages = ("onnxruntime",)
    export_packages = ("onnx", "onnxscript")
    extra = "onnx"
    example_imports = "import onnxruntime\n"
    example_run = """

def run(part, inputs):
    path = folder / export["components"][part]["file"]
    return onnxruntime.InferenceSession(path).run(None, inputs)
"""

    def convert(self, source: GraphSource) -> Any:
        """Convert a module to an ONNX graph."""
        quantizer = dynamic_quantizer() if source.precision == "int8" else None
        component = self.trace(source, quantizer)
        if source.precision == "bf16":
            store_in_bfloat16(component.program)
        return component

    def open(self, path: Path, precision: str, threads: int | None) -> Session:
        """A session of ONNX Runtime."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            path, options, providers=["CPUExecutionProvider"], enable_fallback=False
        )
        names = [output.name for output in session.get_outputs()]

        def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            return dict(zip(names, session.run(names, dict(inputs)), strict=True))

        return run


def dynamic_quantizer() -> Any:
    """ONNX Runtime's dynamic quantisation, with one scale per output channel.

    Convolutions stay float, because its integer ones are slower. Static ranges from a few images
    were further from the source at B/32.
    """
    from onnxruntime.quantization.registry import IntegerOpsRegistry
    from transformers.exporters import OnnxRuntimeDynamicConfig, OnnxRuntimeQuantizer

    operations = [name for name in IntegerOpsRegistry if name != "Conv"]
    config = OnnxRuntimeDynamicConfig(op_types_to_quantize=operations, per_channel=True)
    return OnnxRuntimeQuantizer(config)


def store_in_bfloat16(model: Any):
    """Store the large weights of an ONNX graph in bfloat16, upcast when it is loaded, in place.

    ONNX Runtime has no bfloat16 product for the CPU: this halves the file, and it computes in
    float32.
    """
    import ml_dtypes
    import onnx_ir

    graph = model.graph
    for value in list(graph.initializers.values()):
        tensor = value.const_value
        if tensor.dtype != onnx_ir.DataType.FLOAT or tensor.size < SMALLEST_BFLOAT16:
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
