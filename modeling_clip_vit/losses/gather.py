"""All-gather with gradients: what makes a contrastive loss exact over processes.

Each process computes a part of the loss of the whole batch, times the number of processes. The
backward pass of the gather sums each row's gradient over all processes, so averaging gradients
(`DistributedDataParallel`, FSDP) gives the single-process gradient.
"""

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from ..normalization import count_processes, sum_over_processes


def gather_sizes(*sizes: int, device: torch.device, are_equal: bool = False) -> list[list[int]]:
    """All-gather numbers of rows: for each argument, a list with one number per process.

    Args:
        sizes: numbers of rows of this process.
        device: of this process.
        are_equal: whether they are known to be the same on all processes, so that there is nothing
            to exchange and to wait for.
    """
    if are_equal or count_processes() == 1:
        return [[size] * count_processes() for size in sizes]
    local_sizes = torch.tensor(sizes, device=device)
    all_sizes = local_sizes.new_empty(count_processes() * len(sizes))
    dist.all_gather_into_tensor(all_sizes, local_sizes)
    return all_sizes.view(-1, len(sizes)).t().tolist()


class EarlyGather:
    """An all-gather that begins as soon as its rows are there, and is awaited where all are needed.

    What is computed in the meantime hides it. All processes must have equally many rows.
    """

    gathered: torch.Tensor
    work: dist.Work

    @torch.no_grad()
    def begin(self, values: torch.Tensor):
        """Begin to gather this process's rows, in the format that they have: (local rows, ...)."""
        self.rows = values.contiguous()
        count = count_processes()
        self.gathered = values.new_empty(count * len(values), *values.shape[1:])
        work = dist.all_gather_into_tensor(self.gathered, self.rows, async_op=True)
        assert work is not None
        self.work = work

    def wait(self) -> torch.Tensor:
        """The rows of all processes, (all rows, ...)."""
        self.work.wait()
        return self.gathered


def gather_with_gradient(
    values: torch.Tensor, sizes: list[int], early: EarlyGather | None = None
) -> torch.Tensor:
    """All-gather rows, in the order of the processes: (local rows, ...) to (all rows, ...).

    Args:
        values: this process's rows.
        sizes: number of rows of each process, from `gather_sizes`; they may differ.
        early: a gather of the same rows that has begun.
    """
    return values if len(sizes) == 1 else _Gather.apply(values, sizes, early)


def local_rows(values: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """This process's part of rows that are in the order of the processes."""
    return values if len(sizes) == 1 else values.split(sizes)[dist.get_rank()]


class _Gather(torch.autograd.Function):
    """All-gather forward; backward, the gradients of the local rows, summed over processes."""

    @staticmethod
    def forward(
        ctx, values: torch.Tensor, sizes: list[int], early: EarlyGather | None
    ) -> torch.Tensor:
        ctx.sizes = sizes
        if early is not None:
            return early.wait().to(values.dtype)
        rows = pad(values, max(sizes))
        parts = values.new_empty(len(sizes), *rows.shape)
        dist.all_gather_into_tensor(parts.flatten(0, 1), rows)
        return close_gaps(parts, sizes)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: torch.Tensor):
        return reduce_scatter(gradient, ctx.sizes), None, None


def pad(rows: torch.Tensor, size: int) -> torch.Tensor:
    """The rows, followed by zeros up to a number of rows: collectives need as many of each process.

    Rows that are as many already are not copied.
    """
    if len(rows) == size:
        return rows.contiguous()
    padded = rows.new_zeros(size, *rows.shape[1:])
    padded[: len(rows)] = rows
    return padded


def close_gaps(parts: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """The rows of all parts without their padding, moved within the memory that they are in.

    Args:
        parts: padded rows of each process, (processes, rows, ...).
        sizes: number of rows of each part that are not padding.
    """
    rows, end = parts.flatten(0, 1), 0
    if min(sizes) == parts.shape[1]:
        return rows
    for part, size in zip(parts, sizes, strict=True):
        rows[end : end + size] = part[:size].clone()  # the old place and the new one may overlap
        end += size
    return rows[:end]


def reduce_scatter(gradient: torch.Tensor, sizes: list[int]) -> torch.Tensor:
    """This process's rows of the sum over processes: (all rows, ...) to (local rows, ...).

    Half of what an all-reduce moves, and no process receives the sum of the others' rows.
    """
    largest = max(sizes)
    if min(sizes) < largest:
        gradient = torch.cat([pad(part, largest) for part in gradient.split(sizes)])
    total = gradient.new_empty(largest, *gradient.shape[1:])
    dist.reduce_scatter_tensor(total, gradient.contiguous())
    return total[: sizes[dist.get_rank()]]


def log_sum_exp_over_processes(values: torch.Tensor) -> torch.Tensor:
    """`log sum exp` over all processes, elementwise, with its gradient."""
    if count_processes() == 1:
        return values
    largest = values.detach().clone()
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    largest = largest.clamp(min=torch.finfo(values.dtype).min)  # (-inf) - (-inf) is NaN
    return largest + sum_over_processes((values - largest).exp()).log()


def global_loss(local_loss: torch.Tensor) -> torch.Tensor:
    """The loss of the whole batch, from the part of it that this process computed.

    The value is the sum over processes, and the same on all of them. The gradient is that of this
    process's part times the number of processes, which averaging gradients divides by.
    """
    count = count_processes()
    if count == 1:
        return local_loss
    scaled = local_loss * count
    total = local_loss.detach().clone()
    dist.all_reduce(total)
    return scaled + (total - scaled).detach()
