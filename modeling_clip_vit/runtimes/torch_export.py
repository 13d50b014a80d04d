"""torch.export, run by torch itself."""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .exporters import TransformersRuntime, to_bfloat16
from .runtime import GraphSource, Inputs, Session


class TorchExport(TransformersRuntime):
    """Programs of torch.export; a file can contain a pickle, and loading one can run its code."""

    name = "torch"
    format = "torch_export"
    exporter = "dynamo"
    can_run_code = True
    packages = ("torch",)
    int8_packages = ("torchao",)
    int8_extra = "quantize"
    example_imports = "import torch\n"
    example_run = """
if export["precision"] == "int8":
    import torch.ao.quantization.fx._decomposed  # its operators


def run(part, inputs):
    path = folder / export["components"][part]["file"]
    module = torch.export.load(path).module()
    tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
    if "pixel_values" in tensors and export["precision"] == "bf16":
        tensors["pixel_values"] = tensors["pixel_values"].bfloat16()
    with torch.inference_mode():
        return [value.numpy() for value in module(**tensors).values()]
"""

    def convert(self, source: GraphSource) -> Any:
        """Convert a module to a program of torch.export."""
        quantizer = x86_quantizer(source.samples) if source.precision == "int8" else None
        if source.precision == "bf16":
            source = to_bfloat16(source)
        return self.trace(source, quantizer)

    def open(self, path: Path, precision: str, threads: int | None) -> Session:
        """A program of torch.export; only for trusted files."""
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


def x86_quantizer(samples: list[Inputs]) -> Any:
    """torchao's quantisation of the graph of torch.export, for its compiler on x86.

    NNCF's quantisation of such graphs is not used, because it fails on the masks of a text tower.
    """
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86
    from transformers.exporters import PT2EQuantizer

    assert samples, "check_choice rejects int8 without calibration data"
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    return PT2EQuantizer(quantizer, calibration_dataset=samples)
