"""Runtimes that exported graphs run in: one file each, and the table of them."""

from pathlib import Path

from ..utils.errors import UserError, one_line
from ..utils.packages import require
from .executorch import ExecuTorch
from .onnx import OnnxRuntime
from .openvino import OpenVino
from .runtime import PRECISIONS, GraphSource, Runtime, Session
from .torch_export import TorchExport

__all__ = [
    "PRECISIONS",
    "RUNTIMES",
    "GraphSource",
    "Runtime",
    "Session",
    "exporting_runtimes",
    "open_session",
    "runtimes_of",
]

#: `--runtime` -> the runtime.
RUNTIMES: dict[str, Runtime] = {
    runtime.name: runtime for runtime in (OnnxRuntime(), OpenVino(), TorchExport(), ExecuTorch())
}


def exporting_runtimes() -> dict[str, Runtime]:
    """`--format` -> the runtime that it is exported for."""
    return {runtime.format: runtime for runtime in RUNTIMES.values()}


def runtimes_of(format: str) -> list[str]:
    """The names of the runtimes that run a format, the one that it is exported for first."""
    native = [name for name, runtime in RUNTIMES.items() if runtime.format == format]
    others = [name for name, runtime in RUNTIMES.items() if format in runtime.other_formats]
    return native + others


def open_session(path: Path, name: str, precision: str, threads: int | None = None) -> Session:
    """Load an exported graph into a runtime, on the CPU.

    Args:
        path: the graph's file.
        name: a key of `RUNTIMES`.
        precision: `fp32`, `bf16` or `int8`, as it was exported.
        threads: number of threads to compute with; None leaves it to the runtime.

    Raises:
        UserError: the runtime is not installed, or cannot read the file.
    """
    runtime = RUNTIMES[name]
    require(runtime.packages, runtime.extra, f"running {path.name!r}")
    try:
        return runtime.open(path, precision, threads)
    # Each runtime has errors of its own, most of them without a common type.
    except Exception as error:
        reason = one_line(error)[:300]
        raise UserError(f"{name} cannot load {str(path)!r}: {reason}") from error
