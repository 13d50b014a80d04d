"""Batches that do not fit in memory: the gradient cache (Gao et al., 2021, section 3).

A contrastive loss compares everything in a batch, so it is not the sum of the losses of parts of
the batch. But given its gradient with respect to the embeddings, the backward pass through the
towers can be done in parts. So: embed all parts without a graph; compute the loss of all embeddings
and its gradient with respect to them; run each part again with a graph, and backpropagate that
gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from ..normalization import BatchNorm
from ..utils.devices import read_random_state, write_random_state
from ..utils.errors import UserError
from ..utils.processes import all_reduce_max


class Similarity(Protocol):
    """The part of a model with the scale and the bias of its logits."""

    def get_scale(self) -> torch.Tensor:
        """The factor on the cosine similarities, a scalar."""

    def get_bias(self) -> torch.Tensor | None:
        """The bias on the logits, a scalar, or None."""


#: From all image embeddings, all text embeddings, scale and bias to the loss and values to log.
LossFunction = Callable[..., tuple[torch.Tensor, dict[str, torch.Tensor]]]


def refuse_batch_norm(model: nn.Module):
    """Reject a model whose embeddings would depend on how the batch is cut.

    Raises:
        UserError: a trainable module of the model computes statistics over the batch.
    """
    for name, module in model.named_modules():
        is_batch_norm = isinstance(module, BatchNorm | nn.modules.batchnorm._BatchNorm)
        if is_batch_norm and any(parameter.requires_grad for parameter in module.parameters()):
            raise UserError(
                f"the gradient cache cannot cut a batch that {name} ({type(module).__name__}) "
                "computes statistics over: use another norm_type or patch_embedding, or "
                "gradient_cache_batch_size=0"
            )


def cut(inputs: dict[str, torch.Tensor], part_size: int) -> list[dict[str, torch.Tensor]]:
    """Cut a model's inputs into even parts of at most `part_size` images, with as many texts each.

    Parts are larger if there are fewer texts than parts.

    Args:
        inputs: arguments of `ClipVitModel.forward`, with one row per image or per text.
    """
    num_images = len(inputs["pixel_values" if "pixel_values" in inputs else "vision_pooler_output"])
    num_texts = len(inputs["input_ids" if "input_ids" in inputs else "text_pooler_output"])
    count = max(1, min(-(-num_images // part_size), num_images, num_texts))
    split = {name: values.tensor_split(count) for name, values in inputs.items()}
    return [{name: parts[i] for name, parts in split.items()} for i in range(count)]


def cached_backward(
    model: nn.Module,
    similarity: Similarity,
    parts: list[dict[str, torch.Tensor]],
    loss_function: LossFunction,
    backward: Callable[[torch.Tensor], None] = torch.Tensor.backward,
    **kwargs,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Compute the gradients of the loss of a whole batch with the memory of a part of it.

    Args:
        model: from a part's inputs to an output with `image_embeds` and `text_embeds`; wrapped for
            distributed training or not. Processes exchange gradients with the last part only.
        similarity: the sub-module with scale and bias.
        parts: inputs, from `cut`.
        loss_function: from all image embeddings, all text embeddings, scale and bias to the loss
            and values to log.
        backward: computes gradients from a scalar, such as `Accelerator.backward`.
        kwargs: other arguments of the model, the same for all parts.

    Returns:
        The result of `loss_function`, with the loss detached; gradients are in the parameters.
    """
    states, images, texts = [], [], []
    device = next(iter(parts[0].values())).device
    idle_turns = count_idle_turns(len(parts), device)
    with torch.no_grad():
        for part in parts:
            states.append(read_random_state(device))
            outputs = model(**part, **kwargs)
            images.append(outputs.image_embeds)
            texts.append(outputs.text_embeds)
        for _ in range(idle_turns):
            model(**parts[0], **kwargs)
        scalars = scale_and_bias(similarity)
    embeds = [torch.cat(embeddings).requires_grad_() for embeddings in (images, texts)]
    leaves = [value.detach().requires_grad_() for value in scalars]
    loss, values = loss_function(*embeds, *leaves, *[None] * (2 - len(leaves)))
    gradients = torch.autograd.grad(loss, [*embeds, *leaves], materialize_grads=True)
    image_gradients = gradients[0].split([len(part) for part in images])
    text_gradients = gradients[1].split([len(part) for part in texts])
    after = read_random_state(device)
    for _ in range(idle_turns):
        with gradient_exchange(model, False):
            outputs = model(**parts[0], **kwargs)
            backward(0 * (outputs.image_embeds.sum() + outputs.text_embeds.sum()))
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        write_random_state(states[i], device)
        with gradient_exchange(model, is_last):
            outputs = model(**part, **kwargs)
            surrogate = (outputs.image_embeds * image_gradients[i]).sum()
            surrogate = surrogate + (outputs.text_embeds * text_gradients[i]).sum()
            if is_last:
                for value, gradient in zip(scale_and_bias(similarity), gradients[2:], strict=True):
                    surrogate = surrogate + value * gradient
            backward(surrogate)
    write_random_state(after, device)
    return loss.detach(), values


def scale_and_bias(similarity: Similarity) -> list[torch.Tensor]:
    """The scale, and the bias if there is one."""
    bias = similarity.get_bias()
    return [similarity.get_scale()] + ([] if bias is None else [bias])


def count_idle_turns(num_parts: int, device: torch.device) -> int:
    """The number of parts that this process has fewer than the process with the most.

    With sharded weights, every pass needs all processes, so this one must run as many idle passes.
    """
    return all_reduce_max([num_parts], device)[0] - num_parts


@contextmanager
def gradient_exchange(model: Any, is_on: bool) -> Iterator[None]:
    """Let a backward pass exchange gradients over processes, or accumulate them until a later one.

    Args:
        model: as FSDP2, DeepSpeed or DistributedDataParallel wrapped it, or not wrapped.
        is_on: whether to exchange gradients.
    """
    if is_on:
        yield
    elif hasattr(model, "set_requires_gradient_sync"):  # FSDP2
        model.set_requires_gradient_sync(False)
        yield
        model.set_requires_gradient_sync(True)
    elif hasattr(model, "set_gradient_accumulation_boundary"):  # DeepSpeed
        model.set_gradient_accumulation_boundary(False)
        yield
        model.set_gradient_accumulation_boundary(True)
    elif hasattr(model, "no_sync"):  # DistributedDataParallel
        with model.no_sync():
            yield
    else:
        yield
