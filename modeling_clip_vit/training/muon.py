"""Muon, which orthogonalises the momentum of matrices; AdamW for everything else.

Shape legend: `Z` stacked matrices, `N` rows, `M` columns.
"""

from collections import defaultdict
from collections.abc import Sequence
from functools import reduce

import torch
from torch import nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw

from ..utils.processes import full_tensor

#: Coefficients (a, b, c) of the iteration X <- aX + bXXᵀX + cX(XᵀX)², one row a step. Five steps
#: bring singular values between 0.01 and 1 to within 0.2 of 1
#: (https://leloykun.github.io/ponder/muon-opt-coeffs).
NEWTON_SCHULZ = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)
#: With at least this many columns per row, iterating on XXᵀ (N, N) costs less than on X (N, M).
WIDE = 3
TINY = 1e-7


def orthogonalize(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Approximate the nearest semi-orthogonal matrix: U Vᵀ of the decomposition U S Vᵀ.

    Newton–Schulz iterations (Jordan et al., 2024), a batch of matrices at a time.

    Args:
        matrices: (Z, N, M) with N <= M.
        dtype: to multiply in: float32, or bfloat16 if the device multiplies that faster.

    Returns:
        (Z, N, M) in `dtype`, all singular values near 1.
    """
    x_ZNM = matrices.to(dtype)
    x_ZNM = x_ZNM / x_ZNM.norm(dim=(-2, -1), keepdim=True).clamp(min=TINY)
    is_wide = x_ZNM.shape[2] >= WIDE * x_ZNM.shape[1]
    # bfloat16 has too few digits for the iteration on XXᵀ, which squares singular values.
    if is_wide and dtype != torch.bfloat16:
        return torch.bmm(gram_factor(torch.bmm(x_ZNM, x_ZNM.mT)), x_ZNM)
    for a, b, c in NEWTON_SCHULZ:
        gram_ZNN = torch.bmm(x_ZNM, x_ZNM.mT)
        factor_ZNN = torch.baddbmm(gram_ZNN, gram_ZNN, gram_ZNN, beta=b, alpha=c)
        x_ZNM = torch.baddbmm(x_ZNM, factor_ZNN, x_ZNM, beta=a)
    return x_ZNM


def gram_factor(gram: torch.Tensor) -> torch.Tensor:
    """The product of all steps' factors, which takes X to its orthogonal part: (Z, N, N).

    Each factor is a polynomial in XXᵀ, so the iteration needs X only at its beginning and end.
    """
    factors_ZNN: list[torch.Tensor] = []
    for a, b, c in NEWTON_SCHULZ:
        if factors_ZNN:
            gram = torch.bmm(torch.bmm(factors_ZNN[-1], gram), factors_ZNN[-1])
        factor_ZNN = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        factor_ZNN.diagonal(dim1=-2, dim2=-1).add_(a)
        factors_ZNN.append(factor_ZNN)
    return reduce(torch.bmm, factors_ZNN)


def as_matrix(tensor: torch.Tensor) -> torch.Tensor:
    """A view of a weight as a matrix (out, everything else), also if its channels are last.

    The orthogonal part does not depend on the order of the columns.
    """
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        tensor = tensor.permute(0, 2, 3, 1)
    return tensor.flatten(1)


class Muon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) for the groups with `use_muon`, AdamW for the others.

    A matrix moves by the orthogonal part of its Nesterov momentum, times `lr` and
    `sqrt(max(1, rows / columns))`. Weight decay is decoupled from the gradient in both kinds of
    group. Matrices of the same shape, transposed or not, are orthogonalised in one batched product.

    Args:
        groups: parameter groups, each with `lr`, `weight_decay` and `use_muon`.
        momentum: decay rate of the running mean of a matrix's gradient.
        betas: AdamW's decay rates of the mean of the gradient and of its square.
        eps: added to AdamW's denominator.
        product_dtype: dtype of the products that orthogonalise matrices.
    """

    def __init__(
        self,
        groups: Sequence[dict],
        momentum: float = 0.95,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        product_dtype: torch.dtype = torch.float32,
    ):
        # AdamW's fused kernel needs its counter of steps next to the weights, and loading a state
        # puts it there only for groups that say so.
        defaults = {"momentum": momentum, "betas": betas, "eps": eps, "fused": True}
        super().__init__(groups, defaults)
        self.product_dtype = product_dtype

    @torch.no_grad()
    def step(self, closure=None):
        """Update every parameter that has a gradient.

        Args:
            closure: recomputes the loss, as in `torch.optim.Optimizer.step`; or None.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if group["use_muon"]:
                self.step_muon(parameters, group)
            elif parameters:
                self.step_adamw(parameters, group)
        return loss

    def step_muon(self, parameters: list[nn.Parameter], group: dict):
        """Muon's update."""
        by_shape: dict[tuple[int, int], list] = defaultdict(list)
        for parameter in parameters:
            matrix = as_matrix(full_tensor(self.advance_momentum(parameter, group["momentum"])))
            rows, columns = matrix.shape
            by_shape[min(rows, columns), max(rows, columns)].append((parameter, matrix))
        for members in by_shape.values():
            upright = [matrix.mT if is_tall(matrix) else matrix for _, matrix in members]
            orthogonal_ZNM = orthogonalize(torch.stack(upright), self.product_dtype)
            for (parameter, matrix), update in zip(members, orthogonal_ZNM, strict=True):
                rows, columns = matrix.shape
                rate = group["lr"] * max(1, rows / columns) ** 0.5
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                add_matrix(parameter, update.mT if is_tall(matrix) else update, -rate)

    def advance_momentum(self, parameter: nn.Parameter, momentum: float) -> torch.Tensor:
        """Update a parameter's momentum, and return the direction of Nesterov's update."""
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
        return gradient.lerp(mean, momentum)

    def step_adamw(self, parameters: list[nn.Parameter], group: dict):
        """AdamW's update (Loshchilov and Hutter, 2019)."""
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        states = [self.state[parameter] for parameter in parameters]
        adamw(
            parameters,  # type: ignore[arg-type]
            [parameter.grad for parameter in parameters],  # type: ignore[misc]
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=group["fused"],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def is_tall(matrix: torch.Tensor) -> bool:
    """Whether a matrix has more rows than columns."""
    return matrix.shape[0] > matrix.shape[1]


def add_matrix(parameter: torch.Tensor, matrix: torch.Tensor, factor: float):
    """Add a multiple of a matrix to the weight that `as_matrix` turned into one of its shape."""
    if isinstance(parameter, DTensor):
        update = matrix.to(parameter.dtype).reshape(parameter.shape)
        mesh, placements = parameter.device_mesh, parameter.placements
        sharded = distribute_tensor(update, mesh, placements, src_data_rank=None)
        parameter.add_(sharded, alpha=factor)
    else:
        as_matrix(parameter).add_(matrix.to(parameter.dtype), alpha=factor)
