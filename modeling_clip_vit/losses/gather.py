"""Bring the embeddings of all processes together, with their gradients."""

import torch
import torch.distributed as dist
from torch.distributed.nn.functional import all_gather


def gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Every process's rows, in the order of the processes: (B, ...) to (B * processes, ...).

    The gradient of a row goes back to the process it came from, summed over the processes' losses.
    When each process computes the loss of the whole batch and gradients are then averaged over
    processes, as `DistributedDataParallel` does, the result is the gradient that one process with
    the whole batch would have. All processes must bring the same number of rows.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return tensor
    if tensor.requires_grad:
        return torch.cat(all_gather(tensor))
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)
