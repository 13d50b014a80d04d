"""The choices of an export, checked before any work."""

from collections.abc import Iterable

from ..inference.exported import ExportError
from ..runtimes import Runtime, exporting_runtimes
from ..utils.packages import require

#: What `--part` offers -> the graphs that it makes.
PART_CHOICES = {
    "both": ("image", "text"),
    "image": ("image",),
    "text": ("text",),
    "joint": ("joint",),
}


def choose_runtime(
    format: str, precision: str, parts: Iterable[str], has_calibration: bool
) -> Runtime:
    """The runtime that a format is exported for.

    Args:
        format: for `--format`.
        precision: `fp32`, `bf16` or `int8`.
        parts: graphs to export, of `image`, `text` and `joint`.
        has_calibration: whether there is calibration data, or the model has int8 ranges already.

    Raises:
        ExportError: it does not support one of these; the message says what is allowed.
        MissingPackageError: a package is not installed.
    """
    runtimes = exporting_runtimes()
    if format not in runtimes:
        raise ExportError(f"no format {format!r}: there are {', '.join(runtimes)}")
    runtime = runtimes[format]
    if precision not in runtime.precisions:
        raise ExportError(
            f"--format {format} does not take --precision {precision}: allowed is "
            f"{', '.join(runtime.precisions)}"
        )
    for part in parts:
        if part not in runtime.parts:
            raise ExportError(
                f"--format {format} does not take the part {part!r}: allowed is "
                f"{', '.join(runtime.parts)}"
            )
    packages = (*runtime.export_packages, *runtime.packages)
    require(packages, runtime.extra, f"--format {format}")
    if precision == "int8":
        purpose = f"--format {format} --precision int8"
        require(runtime.int8_packages, runtime.int8_extra, purpose)
        if runtime.needs_calibration and not has_calibration:
            raise ExportError(
                f"{purpose} needs calibration data: name a dataset of images and captions with "
                "--calibration"
            )
    return runtime


def choose_parts(part: str, format: str) -> tuple[str, ...]:
    """The graphs that `--part` makes; of `both`, those that the format supports.

    Raises:
        ExportError: there is no such choice.
    """
    if part not in PART_CHOICES:
        raise ExportError(f"no part {part!r}: there are {', '.join(PART_CHOICES)}")
    names = PART_CHOICES[part]
    runtime = exporting_runtimes().get(format)
    if runtime is None or len(names) == 1:
        return names
    return tuple(name for name in names if name in runtime.parts) or names
