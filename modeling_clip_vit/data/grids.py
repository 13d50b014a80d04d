"""The grid of patches that an image in its own aspect ratio is resized to; without torch."""

import math


def fit_size(height: int, width: int, patch_size: int, max_patches: int) -> tuple[int, int]:
    """Height and width, multiples of the patch, of the largest grid within a number of patches.

    The rule is that of SigLIP 2 (Tschannen et al., 2025, section 2.4.2): one factor for both sides,
    each rounded up to whole patches. The factor is bisected as Transformers' image processor does
    it, so that both always choose the same grid.
    """

    def count(factor: float) -> tuple[int, int]:
        sides = (math.ceil(side * factor / patch_size) for side in (height, width))
        rows, columns = (max(1, side) for side in sides)
        return rows, columns

    low, high = 1e-6, 100.0
    while high - low >= 1e-5:
        factor = (low + high) / 2
        rows, columns = count(factor)
        low, high = (factor, high) if rows * columns <= max_patches else (low, factor)
    rows, columns = count(low)
    return rows * patch_size, columns * patch_size
