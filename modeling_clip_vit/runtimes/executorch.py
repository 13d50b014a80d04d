"""ExecuTorch, for phones and embedded boards."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .exporters import TransformersRuntime
from .runtime import GraphSource, Session


class ExecuTorch(TransformersRuntime):
    """ExecuTorch with XNNPACK, which plans its memory for one shape: one image at a time."""

    name = "executorch"
    format = "executorch"
    exporter = "executorch"
    precisions = ("fp32",)
    parts = ("image",)
    is_static = True
    takes_patches = False
    packages = ("executorch",)
    extra = "executorch"
    example_imports = "import torch\nfrom executorch.runtime import Runtime\n"
    example_run = """

def run(part, inputs):
    path = folder / export["components"][part]["file"]
    method = Runtime.get().load_program(path).load_method("forward")
    return [x.numpy() for x in method.execute([torch.from_numpy(x) for x in inputs.values()])]
"""

    def convert(self, source: GraphSource) -> Any:
        """Convert a module to a program of ExecuTorch."""
        return self.trace(source)

    def open(self, path: Path, precision: str, threads: int | None) -> Session:
        """A program of ExecuTorch; the images of a batch go through it one by one."""
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
