"""The processes that were launched together."""

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import broadcast_object_list
from torch.distributed.tensor import DTensor

from .devices import default_device
from .errors import UserError

#: The others wait while the main process evaluates, ranks or uploads.
TIMEOUT = timedelta(hours=2)

Value = TypeVar("Value")


def start_processes(**kwargs: Any) -> PartialState:
    """This process among those that were launched, each on its device.

    Args:
        kwargs: of torch's `init_process_group`.

    Raises:
        UserError: the processes have not found each other.
    """
    # Without this, processes launched on a machine without an accelerator would each work alone.
    state = PartialState(**{"cpu": default_device().type == "cpu", "timeout": TIMEOUT, **kwargs})
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if state.num_processes != wanted:
        raise UserError(
            f"{wanted} processes were launched, but this one is in a group of "
            f"{state.num_processes}: each would work alone"
        )
    return state


def set_timeout(timeout: timedelta):
    """Set how long processes wait for each other in what they begin from now on.

    This holds for the group of all processes, which exchanges gradients under DDP. The groups of a
    device mesh (FSDP2) have that of the start.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return
    if hasattr(dist, "set_timeout"):
        dist.set_timeout(timeout)
    else:  # torch before 2.14
        dist.distributed_c10d._set_pg_timeout(timeout)


def from_main(value: Value) -> Value:
    """The main process's value; all processes call it, with any value that pickle takes."""
    if not PartialState._shared_state or PartialState().num_processes == 1:
        return value
    return broadcast_object_list([value])[0]


def all_reduce_max(values: Sequence[int], device: torch.device) -> list[int]:
    """The largest of each number over all processes, which all call it.

    Args:
        values: as many numbers on each process.
        device: of this process.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return list(values)
    largest = torch.tensor(values, device=device)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX)
    return largest.tolist()


def new_cpu_group() -> Any:
    """A group of all processes that exchanges values of the CPU; None for a single process.

    A thread may use it while the others exchange gradients. All processes call this together.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return None
    return dist.new_group(backend="gloo", timeout=TIMEOUT)


def gather_all(value: Value, group: Any = None) -> list[Value]:
    """The values of all processes, in the order of their numbers; all processes call it.

    Args:
        value: any that pickle takes.
        group: from `new_cpu_group`; by default, the group of all processes.
    """
    if not (dist.is_available() and dist.is_initialized()):
        return [value]
    values: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group=group)
    return values


def full_tensor(value: Any) -> Any:
    """The full tensor, all-gathered if it is sharded over processes; other values as they are."""
    return value.full_tensor() if isinstance(value, DTensor) else value
