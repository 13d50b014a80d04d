"""Count what makes a processor wait for an accelerator, on a machine without one.

A tensor's numbers that Python reads, and numbers of Python that become a tensor, are copies between
the two: the processor then waits for all that the accelerator has been given to do.
"""

import traceback
from collections import Counter

import torch
from torch.overrides import TorchFunctionMode, resolve_name

#: Methods that read numbers, or sizes that depend on them.
READING = {
    *("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__"),
    *("nonzero", "unique", "unique_consecutive", "masked_select", "bincount", "is_nonzero"),
}
#: Functions that make a tensor of numbers of Python.
WRITING = {"tensor", "new_tensor", "as_tensor", "from_numpy"}


class Waits(TorchFunctionMode):
    """Notes each wait, and the line of this package that it comes from."""

    def __init__(self):
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = (resolve_name(function) or getattr(function, "__name__", "")).split(".")[-1]
        is_masked = name == "__getitem__" and has_mask(args[1])
        if name in READING or name in WRITING or is_masked:
            self.found[f"{name} at {find_line()}"] += 1
        return function(*args, **(kwargs or {}))


def has_mask(index) -> bool:
    """Whether an index chooses rows by a mask, whose number is read first."""
    parts = index if isinstance(index, tuple) else (index,)
    return any(isinstance(part, torch.Tensor) and part.dtype == torch.bool for part in parts)


def find_line() -> str:
    """The innermost line of the package that is being executed."""
    for frame in reversed(traceback.extract_stack()):
        if "modeling_clip_vit/" in frame.filename and "tests/" not in frame.filename:
            return f"{frame.filename.split('modeling_clip_vit/')[-1]}:{frame.lineno} {frame.line}"
    return "?"
