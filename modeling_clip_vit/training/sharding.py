"""A model whose weights FSDP2 shards over processes: what it cannot do, formats, evaluation."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, is_initialized
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    disable_fsdp_ram_efficient_loading,
)
from torch import nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    register_fsdp_forward_method,
)
from transformers import PreTrainedModel

from ..normalization import upcast
from ..utils.errors import UserError
from .options import ModelOptions, OptimizerOptions

Model = TypeVar("Model", bound=PreTrainedModel)

logger = logging.getLogger(__name__)

#: Strategies under which no process holds all weights of a model.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
#: Their outputs are normalised and compared.
PROJECTIONS = ("visual_projection", "text_projection")


def check_sharded(
    plugin: FullyShardedDataParallelPlugin, options: OptimizerOptions, model: PreTrainedModel
):
    """Reject what does not train with sharded weights.

    Args:
        plugin: Accelerate's settings of FSDP2.
        options: of the run.
        model: of the run, not sharded yet.

    Raises:
        UserError: with what to use instead.
    """
    own = {name for name, _ in model.named_non_persistent_buffers()}
    buffers = [name for name, _ in model.named_buffers() if name not in own]
    if buffers and plugin.cpu_ram_efficient_loading:
        raise UserError(
            "fsdp_cpu_ram_efficient_loading: true is not allowed with a model that has "
            f"{buffers[0]}: Accelerate sends the other processes weights alone; set it to false in "
            "the configuration that you launch with"
        )
    if options.optim == "adafactor":
        raise UserError(
            "optim='adafactor' is not allowed with FSDP2: it factors whole matrices, and each "
            "process has rows of them; use 'adamw' or 'muon'"
        )


def receives_weights() -> bool:
    """Whether this process gets its shards of a new model from the first process.

    It does under FSDP2 with Accelerate's `fsdp_cpu_ram_efficient_loading: true`.
    """
    if not is_initialized():
        return False
    state = AcceleratorState()
    plugin = getattr(state, "fsdp_plugin", None)
    if state.distributed_type != DistributedType.FSDP or plugin is None:
        return False
    return plugin.fsdp_version == 2 and plugin.cpu_ram_efficient_loading and state.process_index > 0


def build_new(build: Callable[[], Model], options: ModelOptions) -> Model:
    """A new model, whose weights only those processes have that do not receive them later.

    The others have memory that nothing was written to yet, so that a machine with many processes
    holds the weights once. They are not on the meta device, since Accelerate tells the parameters
    of an optimiser apart by their addresses. Every process has the weights of a frozen tower, whose
    features may be stored before the weights are shared out, and those of a model with buffers that
    checkpoints do not have.

    Args:
        build: makes the model; the same in all processes.
        options: of the model.
    """
    if options.frozen_towers or not receives_weights():
        return build()
    with torch.device("meta"):
        model = build()
    if next(model.named_non_persistent_buffers(), None) is not None:
        return build()
    model.to_empty(device="cpu")
    model.tie_weights()
    return model


def load_pretrained_whole(accelerator: Accelerator):
    """Have Transformers load pretrained models in every process.

    With `fsdp_cpu_ram_efficient_loading: true`, all processes but the first are left without the
    weights that a checkpoint lacks, such as those of a new class head. These are on the meta
    device, where all addresses are 0, so Accelerate would give the optimiser one parameter in place
    of all of them.
    """
    if accelerator.is_fsdp2:
        disable_fsdp_ram_efficient_loading()


def set_sharded_precision(accelerator: Accelerator, model: nn.Module):
    """Keep in float32 what half precision would spoil, before FSDP2 shards a model.

    Accelerate computes, reduces gradients and returns outputs in one format. In bfloat16, a logit
    scale of 99.98 is 99, and the gradients of many processes lose their small parts as
    they are summed. So blocks compute in that format, but gradients are reduced, scale and bias of
    the logits are used, and embeddings are normalised, in float32.

    Args:
        accelerator: of the run; its FSDP plugin is changed.
        model: not sharded yet; its embeddings are upcast from now on.
    """
    policy = accelerator.state.fsdp_plugin.mixed_precision_policy
    if not isinstance(policy, MixedPrecisionPolicy):  # all is float32
        return
    changes: dict[str, Any] = {"reduce_dtype": torch.float32, "output_dtype": None}
    similarity = getattr(model, "similarity", None)
    if similarity is not None:
        if any(field.name == "param_dtype_override_fn" for field in fields(policy)):

            def keep_similarity(parameter: nn.Parameter) -> torch.dtype | None:
                is_kept = any(parameter is one for one in similarity.parameters())
                return parameter.dtype if is_kept else None

            changes["param_dtype_override_fn"] = keep_similarity
        else:
            logger.warning(
                "torch %s rounds scale and bias of the logits to %s under FSDP2: torch 2.15 keeps "
                "them in float32",
                *(torch.__version__, policy.param_dtype),
            )
    accelerator.state.fsdp_plugin.mixed_precision_policy = replace(policy, **changes)
    for name in PROJECTIONS:
        if hasattr(model, name):
            getattr(model, name).register_forward_hook(upcast_output)


def upcast_output(module: nn.Module, args: tuple, output: torch.Tensor) -> torch.Tensor:
    """A forward hook: the output of a module in float32 or better."""
    return upcast(output)


@contextmanager
def embedding_sharded(model: nn.Module) -> Iterator[None]:
    """Have a sharded model gather its weights where it embeds images or texts alone.

    All processes must embed as often. Without a backward pass, FSDP2 keeps what it has gathered,
    although weights change: after this, they are gathered again.

    Args:
        model: as FSDP2 sharded it, after a step.
    """
    names = [name for name in ("get_image_features", "get_text_features") if hasattr(model, name)]
    for name in names:
        register_fsdp_forward_method(model, name)
    try:
        yield
    finally:
        for name in names:  # within `forward`, they would give up weights too early
            delattr(model, name)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()
