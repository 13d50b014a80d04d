"""Launched in four processes: states that are saved sharded in one way are read in another.

Prints a line for each pair of ways in which weights, optimiser and the next update are equal.
"""

import json
import tempfile
from itertools import product
from pathlib import Path

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.testing import assert_close

from modeling_clip_vit.training.shards import own_shards, write_shards
from modeling_clip_vit.training.states import (
    model_tensors,
    optimizer_index,
    optimizer_tensors,
    restore_optimizer,
    restore_tensors,
)
from modeling_clip_vit.utils.processes import full_tensor
from tests.support.models import small_model

#: Bytes of headers, and of what is not sharded.
SLACK = 40_000


class Way:
    """A way to share a model out over processes.

    Args:
        name: what it is called.
        ranks: of the processes, as a mesh with one dimension that shards, or two of which the first
            repeats; None for whole models on all processes.
    """

    def __init__(self, name: str, ranks: list | None):
        self.name = name
        self.mesh, self.is_here = None, True
        if ranks is not None:
            names = ("replicate", "shard") if isinstance(ranks[0], list) else ("shard",)
            self.mesh = DeviceMesh("cpu", ranks, mesh_dim_names=names)
            self.is_here = dist.get_rank() in torch.tensor(ranks)

    def make(self, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        """A model with random weights, and its optimiser."""
        torch.manual_seed(seed)
        model = small_model(logit_bias_init_value=-3.0)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-1, 1)
        if self.mesh is not None:
            for tower in (model.vision_model, model.text_model):
                for layer in tower.encoder.layers:
                    fully_shard(layer, mesh=self.mesh)
            fully_shard(model, mesh=self.mesh)
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)


def update(model: nn.Module, optimizer: torch.optim.Optimizer):
    """An update of each number by itself, so that it is the same in all ways."""
    for parameter in model.parameters():
        parameter.grad = parameter.detach().square()
    optimizer.step()


def whole_states(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """All states, gathered."""
    states = model_tensors(model) | optimizer_tensors(optimizer, model)
    return {name: full_tensor(state.detach()).clone() for name, state in states.items()}


def save(way: Way, folder: Path):
    """Write a model after two updates, as a run does."""
    folder.mkdir(exist_ok=True)
    model, optimizer = way.make(seed=1)
    update(model, optimizer)
    update(model, optimizer)
    rank = dist.get_rank()
    kinds = {"model": model_tensors(model), "optimizer": optimizer_tensors(optimizer, model)}
    for kind, tensors in kinds.items():
        if shards := own_shards(tensors, rank == 0):
            write_shards(folder / f"{kind}_{rank}.safetensors", shards)
    if rank == 0:
        (folder / "optimizer.json").write_text(json.dumps(optimizer_index(optimizer, model)))


def load(way: Way, folder: Path) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model with other weights that takes over those of a folder."""
    model, optimizer = way.make(seed=2)
    restore_tensors(model_tensors(model), folder, "model")
    index = json.loads((folder / "optimizer.json").read_text())
    restore_optimizer(optimizer, model, folder, index)
    return model, optimizer


def check_sizes(folder: Path):
    """No process writes more than its share, and no two write the same."""
    sizes = {
        place.name: [file.stat().st_size for file in sorted(place.glob("model_*"))]
        for place in folder.iterdir()
    }
    [whole] = sizes["whole"]
    for name, count in (("over 2", 2), ("over 4", 4), ("over 2 by 2", 2)):
        assert len(sizes[name]) == count, (name, sizes)
        assert max(sizes[name]) < whole / count + SLACK, (name, sizes)
        assert abs(sum(sizes[name]) - whole) < SLACK, (name, sizes)
    assert whole > 4 * SLACK, whole


def main():
    accelerator = Accelerator(cpu=True)
    ways = [
        Way("whole", None),
        Way("over 2", [0, 1]),
        Way("over 4", [0, 1, 2, 3]),
        Way("over 2 by 2", [[0, 1], [2, 3]]),
    ]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(broadcast_object_list([place])[0])
        for way in ways:
            if way.is_here:
                save(way, folder / way.name)
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            check_sizes(folder)
        model, optimizer = ways[0].make(seed=1)
        update(model, optimizer)
        update(model, optimizer)
        saved = whole_states(model, optimizer)
        update(model, optimizer)
        following = whole_states(model, optimizer)
        for before, after in product(ways, ways):
            if after.is_here:
                model, optimizer = load(after, folder / before.name)
                # An update rounds what a part has beyond whole vectors of numbers otherwise.
                assert_close(whole_states(model, optimizer), saved, rtol=1e-6, atol=1e-7)
                update(model, optimizer)
                assert_close(whole_states(model, optimizer), following, rtol=1e-5, atol=1e-6)
            accelerator.wait_for_everyone()
            accelerator.print(f"equal: {before.name}, then {after.name}", flush=True)
    accelerator.end_training()


if __name__ == "__main__":
    main()
