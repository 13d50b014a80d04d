"""Embeddings of all processes, brought together with their gradients.

Every process computes its own share of the loss of the whole batch, times the number of processes.
The backward pass of the gather sums each row's gradient over all processes, so averaging gradients
(`DistributedDataParallel`, FSDP) gives the single-process gradient.

Shape legend: `P` embedding.
"""

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from ..normalization import count_processes, sum_over_processes


def share_sizes(*sizes: int, device: torch.device) -> list[list[int]]:
    """All-gather numbers: for each number given, a list with one entry per process."""
    if count_processes() == 1:
        return [[size] for size in sizes]
    own = torch.tensor(sizes, device=device)
    all_sizes = torch.empty(count_processes() * len(sizes), dtype=own.dtype, device=device)
    dist.all_gather_into_tensor(all_sizes, own)
    return all_sizes.view(-1, len(sizes)).t().tolist()


def gather_with_gradient(values: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """The rows of all processes, in the order of the processes: (rows, ...) to (all rows, ...).

    Args:
        values: this process's rows.
        sizes: number of rows of each process, as `share_sizes` tells; they may differ.
    """
    return values if len(sizes) == 1 else _Gather.apply(values, sizes)


def own_rows(values: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """This process's part of rows that stand in the order of the processes."""
    return values if len(sizes) == 1 else values.split(sizes)[dist.get_rank()]


class _Gather(torch.autograd.Function):
    """All rows forward; backward, the sum over processes of the gradients of this one's rows."""

    @staticmethod
    def forward(ctx, values: torch.Tensor, sizes: list[int]) -> torch.Tensor:
        ctx.sizes = sizes
        # Collectives move equal shares: pad to the largest.
        padded = values.new_zeros(max(sizes), *values.shape[1:])
        padded[: len(values)] = values
        parts = values.new_empty(len(sizes), *padded.shape)
        dist.all_gather_into_tensor(parts.flatten(0, 1), padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return own_rows(gradient, ctx.sizes), None


def log_sum_exp_over_processes(values: torch.Tensor) -> torch.Tensor:
    """`log sum exp` over all processes, elementwise, with its gradient."""
    if count_processes() == 1:
        return values
    largest = values.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    largest = largest.clamp(min=torch.finfo(values.dtype).min)  # -inf - -inf is not a number
    return largest + sum_over_processes((values - largest).exp()).log()


def share_loss(share: torch.Tensor) -> torch.Tensor:
    """From this process's share of a loss, a sum, to the loss.

    The value is that of the whole batch, the same on all processes; the gradient is that of the
    share, times the number of processes, which averaging over processes undoes.
    """
    count = count_processes()
    if count == 1:
        return share
    scaled = share * count
    total = share.detach().clone()
    dist.all_reduce(total)
    return scaled + (total - scaled).detach()
