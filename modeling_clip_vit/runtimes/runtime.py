"""What a runtime is to the rest of the package.

Shape legend: `B` batch, `L` tokens or patches, `S` side in pixels, `P` projection.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

PRECISIONS = ("fp32", "bf16", "int8")

#: Inputs of a graph that are of images: `pixel_values` (B, 3, S, S); or for images in their own
#: aspect ratio patches, (B, L, numbers), which of them count, (B, L), and rows and columns, (B, 2).
IMAGE_INPUTS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
#: Inputs of a graph: those of images, and `input_ids` and `attention_mask` (B, L).
Inputs = dict[str, torch.Tensor]
#: Dynamic dimensions of each input: dimension -> `torch.export.Dim`.
DynamicShapes = dict[str, dict[int, Any]]
#: Runs a graph: named arrays in, named arrays out.
Session = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


@dataclass(frozen=True)
class GraphSource:
    """What a graph is made from.

    Args:
        module: takes `inputs` by name and returns named tensors; float32, and not changed.
        inputs: example inputs to trace it with.
        dynamic_shapes: None for a runtime that `is_static`.
        precision: of the graph's weights, one of `PRECISIONS`.
        samples: calibration data for int8, one sample each.
    """

    module: nn.Module
    inputs: Inputs
    dynamic_shapes: DynamicShapes | None
    precision: str
    samples: list[Inputs]


class Runtime(ABC):
    """A format that graphs are exported to, and the program that runs them.

    Everything that is specific to one runtime is an attribute or a method of its class; heavy
    packages are imported within the methods that need them.
    """

    #: Its name for `--runtime`.
    name: ClassVar[str]
    #: The format that it is exported to, for `--format`.
    format: ClassVar[str]
    #: Formats of other runtimes that it runs as well.
    other_formats: ClassVar[tuple[str, ...]] = ()
    #: What can be exported: precisions, and parts of a CLIP (`image`, `text`, `joint`).
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS
    parts: ClassVar[tuple[str, ...]] = ("image", "text", "joint")
    #: Whether int8 ranges are estimated from calibration data.
    needs_calibration: ClassVar[bool] = True
    #: Whether a graph only accepts a batch of one.
    is_static: ClassVar[bool] = False
    #: Whether images may come as patches, in their own aspect ratio.
    takes_patches: ClassVar[bool] = True
    #: Whether loading a graph can run code that the file contains.
    can_run_code: ClassVar[bool] = False
    #: Packages needed to run a graph, the additional ones to export it and to export it in int8,
    #: and the extras of this package that install them.
    packages: ClassVar[tuple[str, ...]] = ()
    export_packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    int8_packages: ClassVar[tuple[str, ...]] = ()
    int8_extra: ClassVar[str] = ""
    #: Source code for an export's example.py: its imports, and a function `run(part, inputs)` that
    #: returns a list of arrays. Without it, exports have no example.py.
    example_imports: ClassVar[str] = ""
    example_run: ClassVar[str] = ""

    @abstractmethod
    def convert(self, source: GraphSource) -> Any:
        """Convert a module to a graph, as `save` writes it."""

    @abstractmethod
    def save(self, programs: dict[str, Any], folder: Path) -> dict:
        """Write graphs to a folder.

        Args:
            programs: part -> what `convert` returned.
            folder: an existing folder.

        Returns:
            Fields for export.json; `components` has the `file` of each part.
        """

    @abstractmethod
    def open(self, path: Path, precision: str, threads: int | None) -> Session:
        """Load a graph on the CPU.

        Args:
            path: the graph's file, in `format` or one of `other_formats`.
            precision: that it was exported in.
            threads: number of threads to compute with; None leaves it to the runtime. torch sets
                it for the whole process, and ExecuTorch ignores it.
        """
