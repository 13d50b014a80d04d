"""Sums of texts that travel, each added to the row that it belongs to.

Shape legend: `B` this process's rows, `N` all processes' rows, `P` projection (the embedding), `I`
slots, `J` slots of a row.
"""

import torch
from torch.autograd.function import once_differentiable

from .ring import Ring


def slot_sums(
    values: torch.Tensor,
    slots: torch.Tensor,
    weights: torch.Tensor | None,
    num_slots: int,
    ring: Ring,
) -> torch.Tensor:
    """For each slot, the weighted sum of the rows of all processes that belong to it.

    Args:
        values: all processes' rows, (N, P); or this process's, (B, P), which travel round the ring.
        slots: the slot of each of all processes' rows, (N,); or several, (N, J).
        weights: the weights that it is added with, in the shape of `slots`; all 1 when None.
        num_slots: the number of slots.
        ring: of the rows.

    Returns:
        (num_slots, P), with a gradient for `values` alone.
    """
    if slots.dim() == 1:
        slots = slots[:, None]
        weights = None if weights is None else weights[:, None]
    return _SlotSums.apply(values, slots, weights, num_slots, ring)


class _SlotSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx, values_BP, slots_NJ, weights_NJ, num_slots, ring):
        sums_IP = values_BP.new_zeros(num_slots, values_BP.shape[1])
        for place, block_BP in ring.blocks(values_BP):
            for j in range(slots_NJ.shape[1]):
                rows_BP = block_BP
                if weights_NJ is not None:
                    rows_BP = weights_NJ[place, j, None] * block_BP
                sums_IP.index_add_(0, slots_NJ[place, j], rows_BP)
        ctx.ring, ctx.shape = ring, values_BP.shape
        ctx.save_for_backward(slots_NJ, weights_NJ)
        return sums_IP

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_IP):
        slots_NJ, weights_NJ = ctx.saved_tensors
        grad_values_BP = grad_IP.new_zeros(ctx.shape)
        # Gradients do not depend on the values: only they travel.
        for place, grad_block_BP in ctx.ring.gradients(grad_values_BP):
            for j in range(slots_NJ.shape[1]):
                rows_BP = grad_IP[slots_NJ[place, j]]
                if weights_NJ is not None:
                    rows_BP = weights_NJ[place, j, None] * rows_BP
                grad_block_BP += rows_BP
        return grad_values_BP, None, None, None, None
