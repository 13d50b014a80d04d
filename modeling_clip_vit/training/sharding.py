"""A model whose weights FSDP2 shards over processes: what it cannot do, formats, evaluation."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    register_fsdp_forward_method,
)

from ..normalization import upcast
from ..utils.errors import UserError
from .options import OptimizerOptions

logger = logging.getLogger(__name__)

#: Strategies under which no process holds all weights of a model.
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)
#: Their outputs are normalised and compared.
PROJECTIONS = ("visual_projection", "text_projection")


def check_sharded(options: OptimizerOptions):
    """Reject what does not train with sharded weights.

    Raises:
        UserError: with what to use instead.
    """
    if options.optim == "adafactor":
        raise UserError(
            "optim='adafactor' is not allowed with FSDP2: it factors whole matrices, and each "
            "process has rows of them; use 'adamw' or 'muon'"
        )


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
