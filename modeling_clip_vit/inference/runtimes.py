"""Run one exported graph: named arrays in, named arrays out, whatever the runtime.

Shape legend: `B` batch, `L` tokens, `S` side in pixels.
"""

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..utils.errors import UserError

#: Runs a graph.
Session = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]

#: Runtime -> the package it needs, and the extra of this package that has it.
RUNTIMES = {
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "openvino"),
    "torch": ("torch", ""),
    "executorch": ("executorch", "executorch"),
}


def require(packages: tuple[str, ...], extra: str, what: str):
    """Check that packages are installed.

    Raises:
        ValueError: one is not; the message names the extra that brings it.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise UserError(
            f"{what} needs {' and '.join(missing)}, which is not installed: "
            f"pip install 'clip-vit[{extra}]'"
        )


def open_session(path: Path, runtime: str, precision: str, threads: int | None = None) -> Session:
    """Load an exported graph into its runtime, on the CPU.

    Args:
        path: the graph's file.
        runtime: a key of `RUNTIMES`.
        precision: `fp32`, `bf16` or `int8`, as it was exported.
        threads: how many to compute with; the runtime's own choice when None.

    Raises:
        ValueError: the runtime is not installed, or cannot read the file.
    """
    package, extra = RUNTIMES[runtime]
    require((package,), extra, f"running {path.name!r}")
    try:
        return OPENERS[runtime](path, precision, threads)
    # Each runtime has errors of its own, most of them without a common type.
    except Exception as error:
        told = " ".join(str(error).split())[:300]
        raise UserError(f"{runtime} cannot load {str(path)!r}: {told}") from error


def open_onnxruntime(path: Path, precision: str, threads: int | None) -> Session:
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


@cache
def openvino_core() -> Any:
    """The one core of this process.

    Each core gives the main thread a signal stack, and restores the previous one when it is
    destroyed. If several are destroyed in the order of their creation, the last one restores a
    stack that no longer exists, and the next child process that ends would kill this one.
    """
    import openvino

    return openvino.Core()


def open_openvino(path: Path, precision: str, threads: int | None) -> Session:
    """A compiled model of OpenVINO; it reads ONNX too."""
    # By itself, OpenVINO computes float32 models in bfloat16 where the processor can.
    options: dict = {"INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32"}
    if threads is not None:
        options["INFERENCE_NUM_THREADS"] = threads
    compiled = openvino_core().compile_model(path, "CPU", options)

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        outputs = compiled(dict(inputs))
        return {port.get_any_name(): np.array(outputs[port]) for port in compiled.outputs}

    return run


def open_torch(path: Path, precision: str, threads: int | None) -> Session:
    """A program of torch.export. Loading one can run code that it holds: only for trusted files."""
    if threads is not None:
        torch.set_num_threads(threads)
    if precision == "int8":
        import_module("torch.ao.quantization.fx._decomposed")  # registers what rounds
    module = torch.export.load(path).module()

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        if precision == "bf16" and "pixel_values" in tensors:
            # Transformers' exporter traces inputs in the precision of the weights.
            tensors["pixel_values"] = tensors["pixel_values"].bfloat16()
        with torch.inference_mode():
            outputs = module(**tensors)
        return {name: value.numpy() for name, value in outputs.items()}

    return run


def open_executorch(path: Path, precision: str, threads: int | None) -> Session:
    """A program of ExecuTorch, which takes one image at a time: a batch goes through it in turn."""
    from executorch.runtime import Runtime

    # Load it by path: given bytes, the runtime would keep only their address.
    program = Runtime.get().load_program(path)
    method = program.load_method("forward")

    def run(inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        pixels = torch.from_numpy(inputs["pixel_values"])
        # All outputs share one buffer, so each is cloned.
        rows = [method.execute([image.contiguous()])[0].clone() for image in pixels.split(1)]
        return {"image_embeds": torch.cat(rows).numpy()}

    return run


OPENERS: dict[str, Callable[[Path, str, int | None], Session]] = {
    "onnxruntime": open_onnxruntime,
    "openvino": open_openvino,
    "torch": open_torch,
    "executorch": open_executorch,
}
