"""What a checkpoint keeps of a model, its optimiser and its running mean: tensors by name.

Names are those of the weights, whatever is wrapped around the model, so that a run goes on under
another strategy: one process, DistributedDataParallel or FSDP2, in any number of processes.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from .shards import ShardReader, local_part

#: What wrappers around modules add to the names of weights.
WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")


def clean_name(name: str) -> str:
    """Name of a weight without the wrappers around its module."""
    for wrapper in WRAPPERS:
        name = name.replace(wrapper, "")
    return name


def model_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and saved buffers of a model, each once, as they are: sharded ones sharded.

    Their names are those of their modules. In a state they may have others, as NNCF's ranges do.
    """
    model.state_dict(keep_vars=True)  # FSDP2 puts what it has gathered back into its shards
    saved = {
        f"{path}.{name}" if path else name
        for path, module in model.named_modules()
        for name in module._buffers.keys() - module._non_persistent_buffers_set
    }
    buffers = ((name, buffer) for name, buffer in model.named_buffers() if name in saved)
    return {clean_name(name): tensor for name, tensor in chain(model.named_parameters(), buffers)}


def named_members(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[list[str]]:
    """Names of the parameters of each group."""
    names = {id(tensor): name for name, tensor in model_tensors(model).items()}
    return [[names[id(one)] for one in group["params"]] for group in optimizer.param_groups]


def optimizer_states(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> Iterator[tuple[str, str, Any]]:
    """Name of a weight, name of a state, and the state, for all states of an optimiser."""
    for group, names in zip(optimizer.param_groups, named_members(optimizer, model), strict=True):
        for parameter, name in zip(group["params"], names, strict=True):
            for key, value in optimizer.state.get(parameter, {}).items():
                yield name, key, value


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, model: nn.Module
) -> dict[str, torch.Tensor]:
    """The states of an optimiser that are tensors, by the weight's name and their own."""
    return {
        f"{name}.{key}": value
        for name, key, value in optimizer_states(optimizer, model)
        if isinstance(value, torch.Tensor)
    }


def optimizer_index(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Any]:
    """Everything else of an optimiser, as plain values.

    Returns:
        `groups`: names and learning rate of each group. `states`: by the weight's name, its states,
        with None in place of tensors.
    """
    members = named_members(optimizer, model)
    groups = [
        {"params": names, "lr": float(group["lr"])}
        for group, names in zip(optimizer.param_groups, members, strict=True)
    ]
    states: dict[str, dict[str, Any]] = {}
    for name, key, value in optimizer_states(optimizer, model):
        is_tensor = isinstance(value, torch.Tensor)
        states.setdefault(name, {})[key] = None if is_tensor else {"value": value}
    return {"groups": groups, "states": states}


@torch.no_grad()
def restore_tensors(tensors: Mapping[str, torch.Tensor], folder: Path, part: str):
    """Copy the tensors of a checkpoint into those of the same names.

    Args:
        tensors: to copy into; of sharded ones, the part of this process is read.
        folder: of the checkpoint.
        part: what the files are called.

    Raises:
        ValueError: the checkpoint has others, or of other shapes.
    """
    with ShardReader(folder, part) as reader:
        if different := reader.shards.keys() ^ tensors.keys():
            raise ValueError(f"{part} differs in {len(different)} tensors, as {min(different)}")
        for name, tensor in tensors.items():
            local_part(tensor).copy_(reader.read(name, tensor))


def restore_optimizer(
    optimizer: torch.optim.Optimizer, model: nn.Module, folder: Path, index: dict[str, Any]
):
    """Restore the states and learning rates of an optimiser.

    Args:
        optimizer: of the model, without what Accelerate put around it.
        model: without what Accelerate put around it.
        folder: of the checkpoint.
        index: that `optimizer_index` gave.

    Raises:
        ValueError: its groups have other weights.
    """
    members = named_members(optimizer, model)
    if [sorted(group["params"]) for group in index["groups"]] != [sorted(one) for one in members]:
        raise ValueError("the optimiser updates other weights, or in other groups")
    state = optimizer.state_dict()
    parameters = [one for group in optimizer.param_groups for one in group["params"]]
    numbers = [number for group in state["param_groups"] for number in group["params"]]
    with ShardReader(folder, "optimizer") as reader:
        state["state"] = {
            number: read_states(reader, name, parameter, index["states"][name])
            for number, parameter, name in zip(numbers, parameters, chain(*members), strict=True)
            if name in index["states"]
        }
    for group, kept in zip(state["param_groups"], index["groups"], strict=True):
        group["lr"] = kept["lr"]
    optimizer.load_state_dict(state)


def read_states(
    reader: ShardReader, name: str, parameter: torch.Tensor, kept: dict[str, Any]
) -> dict[str, Any]:
    """The states of an optimiser for one of its parameters.

    Args:
        reader: of its tensors.
        name: of the parameter.
        parameter: to which they belong.
        kept: names of the states, with the values that are no tensors.
    """
    return {
        key: read_state(reader, f"{name}.{key}", parameter) if value is None else value["value"]
        for key, value in kept.items()
    }


def read_state(reader: ShardReader, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """A state of an optimiser, sharded and laid out in memory as its parameter if of its shape."""
    if reader.shape(name) != tuple(parameter.shape):
        return reader.read_whole(name)
    part = reader.read(name, parameter)
    if not isinstance(parameter, DTensor):
        return part
    return DTensor.from_local(
        part.to(local_part(parameter).device),
        parameter.device_mesh,
        parameter.placements,
        run_check=False,
        shape=parameter.shape,
        stride=parameter.stride(),
    )
