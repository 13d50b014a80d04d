"""What a method of explanation is to the rest.

Shape legend: `Y`, `X` rows and columns of cells, `N` words.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..match import Match


@dataclass(frozen=True)
class Values:
    """What a method makes of one side of a match.

    Args:
        values: float32 on the CPU: of the cells of a picture (Y, X), or of a text's words (N,).
        rest: what is left of the cosine where the values are parts of it, else None.
    """

    values: torch.Tensor
    rest: float | None = None


@dataclass(frozen=True)
class Method:
    """One method.

    Args:
        explain_picture: values of the cells of a match's picture.
        explain_text: values of the words of its text; None if it says nothing about texts.
        takes_grid: whether cells may be other than the model's patches.
        needs_torch: whether it looks into the model, so that no export will do.
    """

    explain_picture: Callable[[Match], Values]
    explain_text: Callable[[Match], Values] | None
    takes_grid: bool = True
    needs_torch: bool = True
