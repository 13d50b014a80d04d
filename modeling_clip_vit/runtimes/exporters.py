"""Runtimes that Transformers has an exporter for.

The exporters trace with torch.export, patch what a backend cannot lower, name inputs and outputs,
and call NNCF, torchao or ONNX Runtime to quantise.
"""

import copy
import io
import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch

from .runtime import GraphSource, Runtime


class TransformersRuntime(Runtime):
    """A runtime whose graphs Transformers' exporters make, and whose programs are its components.

    Its exports can also be loaded with Transformers' `ExportedModel.from_pretrained`.
    """

    #: Its name among Transformers' exporters.
    exporter: ClassVar[str]

    def trace(self, source: GraphSource, quantizer: Any = None) -> Any:
        """Run Transformers' exporter on one module.

        Args:
            source: as in `convert`.
            quantizer: one of Transformers' quantisers; None for a float graph.

        Returns:
            An `ExportedComponent`.
        """
        from transformers.exporters.auto import get_exporter_class

        options: dict[str, Any] = {"dynamic_shapes": source.dynamic_shapes, "quantizer": quantizer}
        options = {name: value for name, value in options.items() if value is not None}
        with quiet():
            exporter: Any = get_exporter_class(self.exporter)()
            config = exporter.config_class(**options)
            exported = exporter.export(source.module, dict(source.inputs), config)
        return exported.components["model"]

    def save(self, programs: dict[str, Any], folder: Path) -> dict:
        """Write graphs as Transformers does; its export.json becomes part of ours."""
        from transformers.exporters import ExportedModel
        from transformers.exporters.base import EXPORT_MANIFEST_FILE

        ExportedModel(programs, self.exporter).save_pretrained(folder)
        return json.loads((folder / EXPORT_MANIFEST_FILE).read_text(encoding="utf-8"))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters and quantisers print and log: versions, progress and every node."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("torch.onnx", "nncf", None)]
    levels = [logger.level for logger in loggers]
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def to_bfloat16(source: GraphSource) -> GraphSource:
    """The same with a copy of the module, its weights in bfloat16."""
    return replace(source, module=copy.deepcopy(source.module).to(torch.bfloat16))
