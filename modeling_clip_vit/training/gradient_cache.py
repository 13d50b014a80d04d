"""Batches larger than fit: the gradient cache (Gao et al., 2021, section 3).

A contrastive loss compares all of a batch, so a batch cannot be cut into parts whose losses are
added. But given the gradient of the loss on the embeddings, the towers' part of the backward pass
can be cut. So: embed all parts without a graph; take the loss of all embeddings and its gradient on
them; run each part again, with a graph, and go backward from that gradient.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from ..normalization import BatchNorm
from ..utils.devices import read_random_state, write_random_state
from ..utils.errors import UserError
from ..utils.processes import all_reduce_max


def refuse_batch_norm(model: nn.Module):
    """Reject a model whose embeddings would depend on how the batch is cut.

    Raises:
        UserError: a trainable module of it takes statistics over the batch.
    """
    for name, module in model.named_modules():
        is_batch_norm = isinstance(module, BatchNorm | nn.modules.batchnorm._BatchNorm)
        if is_batch_norm and any(parameter.requires_grad for parameter in module.parameters()):
            raise UserError(
                f"the gradient cache cannot cut a batch that {name} ({type(module).__name__}) "
                "takes statistics over: use another norm_type or patch_embedding, or "
                "gradient_cache_batch_size=0"
            )


def cut(inputs: dict[str, torch.Tensor], part_size: int) -> list[dict[str, torch.Tensor]]:
    """Cut a model's inputs into even parts of at most `part_size` images and a share of the texts.

    Parts are larger if there are too few texts for that many parts.

    Args:
        inputs: arguments of `ClipVitModel.forward`, with one row per image or per text.
    """
    num_images, num_texts = len(inputs["pixel_values"]), len(inputs["input_ids"])
    count = max(1, min(-(-num_images // part_size), num_images, num_texts))
    split = {name: values.tensor_split(count) for name, values in inputs.items()}
    return [{name: parts[i] for name, parts in split.items()} for i in range(count)]


def cached_backward(
    model: Any,
    similarity: Any,
    parts: list[dict[str, torch.Tensor]],
    loss_function: Callable[..., tuple[torch.Tensor, Any]],
    backward: Callable[[torch.Tensor], Any] = torch.Tensor.backward,
    **kwargs,
) -> tuple[torch.Tensor, Any]:
    """Gradients of the loss of a whole batch, at the memory of a part of it.

    Args:
        model: from a part's inputs to an output with `image_embeds` and `text_embeds`; wrapped for
            distributed training or not. Processes exchange gradients with the last part only.
        similarity: the sub-module with `get_scale` and `get_bias`.
        parts: inputs, as `cut` gives them.
        loss_function: from all image embeddings, all text embeddings, scale and bias to the loss
            and whatever else.
        backward: goes backward from a scalar, such as `Accelerator.backward`.
        kwargs: further arguments of the model, the same for all parts.

    Returns:
        What `loss_function` returned, without a graph; gradients are in the parameters.
    """
    states, images, texts = [], [], []
    device = parts[0]["pixel_values"].device
    idle_turns = count_idle_turns(len(parts), device)
    with torch.no_grad():
        for part in parts:
            states.append(read_random_state(device))
            outputs = model(**part, **kwargs)
            images.append(outputs.image_embeds)
            texts.append(outputs.text_embeds)
        for _ in range(idle_turns):
            model(**parts[0], **kwargs)
        live = [similarity.get_scale(), similarity.get_bias()]
    embeds = [torch.cat(values).requires_grad_() for values in (images, texts)]
    leaves = [value.detach().requires_grad_() for value in live if value is not None]
    loss, others = loss_function(*embeds, *leaves, *[None] * (2 - len(leaves)))
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
                live = [similarity.get_scale(), similarity.get_bias()]
                for value, gradient in zip(live, gradients[2:], strict=False):
                    surrogate = surrogate + value * gradient
            backward(surrogate)
    write_random_state(after, device)
    return loss.detach(), others


def count_idle_turns(num_parts: int, device: torch.device) -> int:
    """How many parts fewer this process has than the one with the most.

    With sharded weights, every pass needs all processes, so this one must run idle passes.
    """
    return all_reduce_max([num_parts], device)[0] - num_parts


@contextmanager
def gradient_exchange(model: Any, is_on: bool) -> Iterator[None]:
    """Let a backward pass exchange gradients over processes, or keep them until a later one."""
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
