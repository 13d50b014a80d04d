"""How DistributedDataParallel exchanges gradients and buffers."""

from accelerate.utils import (
    DDPCommunicationHookType,
    DistributedDataParallelKwargs,
    DistributedType,
)
from torch import nn

from ..normalization import BatchNorm, ImageBatchNorm
from ..utils.errors import UserError
from .options import OptimizerOptions

#: Strategies that exchange gradients in another way.
OTHERS = {DistributedType.FSDP: "FSDP2", DistributedType.DEEPSPEED: "DeepSpeed"}


def check_ddp(options: OptimizerOptions, strategy: DistributedType):
    """Reject an option of DistributedDataParallel under another strategy.

    Raises:
        UserError: with the strategy.
    """
    if options.ddp_comm_hook != "no" and strategy in OTHERS:
        raise UserError(
            f"ddp_comm_hook={options.ddp_comm_hook!r} is not allowed with {OTHERS[strategy]}, "
            "which exchanges gradients in its own way: leave it at 'no', or use DDP"
        )


def build_ddp_handler(
    options: OptimizerOptions, model: nn.Module, handler: DistributedDataParallelKwargs | None
) -> DistributedDataParallelKwargs:
    """What Accelerate wraps a model with.

    Gradients are views of the buckets that are exchanged, which saves a copy of them, unless some
    weights may have none. Buffers are broadcast with each step only if processes change them
    differently.

    Args:
        options: of the run.
        model: not wrapped yet.
        handler: what other parts of the run have already chosen.
    """
    handler = handler or DistributedDataParallelKwargs()
    handler.gradient_as_bucket_view = not handler.find_unused_parameters
    if next(model.buffers(), None) is not None:  # torch warns of what is set
        handler.broadcast_buffers = has_local_buffers(model)
    handler.comm_hook = DDPCommunicationHookType(options.ddp_comm_hook)
    return handler


def has_local_buffers(model: nn.Module) -> bool:
    """Whether processes may change buffers differently.

    Buffers that are not saved are constants, and this package's batch norms compute the same
    running statistics on all processes.
    """
    return any(
        buffer is not None and name not in module._non_persistent_buffers_set
        for module in model.modules()
        if not isinstance(module, BatchNorm | ImageBatchNorm)
        for name, buffer in module._buffers.items()
    )
