"""How embeddings meet those of other processes, checked in processes that this one forks.

Checks that a gather and its gradient are exact, that losses whose texts travel round a ring have
the values and gradients of one process, that a step gathers texts early, and prints the peak memory
of a process.
"""

import itertools
import os
import sys
import tempfile

import torch
import torch.distributed as dist
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel
from torch.profiler import ProfilerActivity, profile

from modeling_clip_vit.losses import ClipLoss, SigLipLoss
from modeling_clip_vit.losses.gather import gather_with_gradient
from modeling_clip_vit.training.arguments import TrainArguments
from modeling_clip_vit.training.ddp import build_ddp_handler
from modeling_clip_vit.training.options import DataOptions, LossOptions, OptimizerOptions
from modeling_clip_vit.training.tasks.contrastive import ContrastiveTask
from modeling_clip_vit.training.tasks.objective import ContrastiveObjective
from modeling_clip_vit.training.tasks.task import EQUAL_SHARES
from tests.support.models import make_images, make_texts, small_model
from tests.support.programs.check_gradients import IMAGES, LOSSES, TEXTS, make_targets, part_of

#: One process has no text, and another no image.
IMAGES[3], TEXTS[3] = [4, 0, 4], [3, 4, 0]
#: The losses that a ring computes, and pairs with plain ids.
RING = {name: case for name, case in LOSSES.items() if name != "distillation"}
RING["siglip, ids"] = (LOSSES["siglip"][0], "ids")
#: Rows of a process and their width, for the memory of a loss.
ROWS, WIDTH, TILE = 64, 256, 16


def fork(count: int, check, *arguments):
    """Run a check in processes of one group, which get their number and the number of all."""
    with tempfile.TemporaryDirectory() as folder:
        children = []
        for rank in range(count):
            child = os.fork()
            if child == 0:
                url = f"file://{folder}/store"
                dist.init_process_group("gloo", init_method=url, rank=rank, world_size=count)
                try:
                    check(rank, count, *arguments)
                    dist.barrier()
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                    os._exit(1)
                sys.stdout.flush()
                os._exit(0)
            children.append(child)
        results = [os.waitpid(child, 0)[1] for child in children]
        assert results == [0] * count, "a process has failed"


def check_gather(rank: int, count: int):
    """Gathered rows are all rows; their gradient is the sum of what all processes have for them."""
    for sizes in ([2] * count, [3, 1, 0, 2][:count], [1, 2, 2, 3][:count]):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            generator = torch.Generator().manual_seed(sum(sizes))
            # Small whole numbers, which every precision adds up exactly.
            whole = torch.randint(-4, 5, (sum(sizes), 3), generator=generator).to(dtype)
            rows = part_of(whole, sizes, rank).clone().requires_grad_()
            gathered = gather_with_gradient(rows, sizes)
            assert torch.equal(gathered, whole), (sizes, dtype)
            (gathered * whole * (rank + 1)).sum().backward()
            expected = part_of(whole, sizes, rank) * (count * (count + 1) // 2)
            assert torch.equal(rows.grad, expected), (sizes, dtype)
    if rank == 0:
        print("gathered:", count, flush=True)


def embeds(rows: int, seed: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(rows, width, generator=generator, dtype=torch.float64), dim=-1)


def scalars() -> list[torch.Tensor]:
    """Scale and bias."""
    return [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (9.0, -3.0)]


def run(name: str, tile, exchange: str, rank: int, count: int, size: int) -> list[torch.Tensor]:
    """A loss, and its gradients for images, texts, scale and bias of one process."""
    make, kind = RING[name]
    image_sizes = IMAGES[count]
    text_sizes = image_sizes if "pairs" in kind else TEXTS[count]
    images = part_of(embeds(8, 0, 8), image_sizes, rank).requires_grad_()
    texts = part_of(embeds(8, 1, 8)[: sum(text_sizes)], text_sizes, rank).requires_grad_()
    values = [images, texts, *scalars()]
    loss = make(tile, exchange)(*values, make_targets(kind, rank, count, size))
    loss.backward()
    return [loss.detach(), *(torch.zeros_like(v) if v.grad is None else v.grad for v in values)]


def check_ring(rank: int, count: int, expected: dict[str, list[torch.Tensor]]):
    """Losses in a ring are those of one process, and so are their gradients."""
    for name, tile in itertools.product(RING, (None, 2)):
        loss, *gradients = run(name, tile, "ring", rank, count, count)
        whole_loss, *whole = expected[name]
        for gradient in gradients[2:]:  # of scale and bias
            dist.all_reduce(gradient)
        text_sizes = IMAGES[count] if "pairs" in RING[name][1] else TEXTS[count]
        for i, sizes in enumerate((IMAGES[count], text_sizes)):
            whole[i] = part_of(whole[i], sizes, rank)
        # Averaging over processes divides gradients by their number.
        errors = [
            (mine / count - one).abs().max() if one.numel() else 0.0
            for mine, one in zip(gradients, whole, strict=True)
        ]
        error = max(float((loss - whole_loss).abs()), *map(float, errors))
        assert error <= 1e-12, (name, tile, rank, error)
        if rank == 0:
            print("ring:", count, name, "tiled" if tile else "whole", f"{error:.0e}", flush=True)


def task_gradients(batch: dict, has_equal_shares: bool) -> tuple[list[str], dict, float]:
    """What a step does in its order, the gradients that it leaves, and its loss."""
    model = small_model().double().train()
    task = ContrastiveTask(TrainArguments(DataOptions(dataset="unused")))
    task.objective = ContrastiveObjective(LossOptions(loss="clip"))
    order: list[str] = []
    for name in ("text_model", "vision_model"):
        model.get_submodule(name).register_forward_hook(lambda *_, name=name: order.append(name))
    all_gather = dist.all_gather_into_tensor

    def note_gather(*args, **kwargs):
        order.append("gather" if kwargs.get("async_op") else "sizes or gather")
        return all_gather(*args, **kwargs)

    dist.all_gather_into_tensor = note_gather
    try:
        batch = {**batch, EQUAL_SHARES: has_equal_shares}
        values = task.backward(model, model, batch, torch.Tensor.backward, False)
    finally:
        dist.all_gather_into_tensor = all_gather
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return order, gradients, float(values["loss"])


def make_batch(part: slice) -> dict[str, torch.Tensor]:
    batch = {"pixel_values": make_images(8).double(), **make_texts([4, 6, 5, 3, 6, 4, 5, 6])}
    batch |= {"image_ids": torch.arange(8), "text_ids": torch.arange(8)}
    return {name: values[part] for name, values in batch.items()}


def check_early(rank: int, count: int, expected: tuple[list[str], dict, float]):
    """With equal shares, texts are gathered while images are encoded, and nothing else changes."""
    share = 8 // count
    batch = make_batch(slice(rank * share, (rank + 1) * share))
    steps = {
        True: ["text_model", "gather", "vision_model"],
        False: ["vision_model", "text_model", "sizes or gather", "sizes or gather"],
    }
    for is_equal, right_order in steps.items():
        order, gradients, loss = task_gradients(batch, is_equal)
        assert order == right_order, order
        errors = [abs(loss - expected[2])]
        assert gradients.keys() == expected[1].keys()
        for name, gradient in gradients.items():
            dist.all_reduce(gradient)
            errors.append(float((gradient / count - expected[1][name]).abs().max()))
        assert max(errors) <= 1e-12, (is_equal, max(errors))
    if rank == 0:
        print("early:", count, f"{max(errors):.0e}", flush=True)


def ddp_gradients(hook: str, rank: int, count: int) -> dict[str, torch.Tensor]:
    """Gradients of one process's images, exchanged by DDP as a run sets it up."""
    model = small_model()
    options = OptimizerOptions(ddp_comm_hook=hook)
    handler = build_ddp_handler(options, model, None)
    if count > 1:
        wrapped = DistributedDataParallel(model, **handler.to_kwargs())
        handler.register_comm_hook(wrapped)
    else:
        wrapped = model
    images = make_images(8)[rank * 4 : rank * 4 + 4]
    outputs = wrapped(pixel_values=images, **make_texts([4, 6, 5, 3]))
    outputs.logits_per_image.square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def check_ddp(rank: int, count: int, parts: list[dict[str, torch.Tensor]]):
    """Gradients are means over processes; with the hook, of halves that are rounded to bfloat16."""
    for hook in ("no", "bf16"):
        gradients = ddp_gradients(hook, rank, count)
        assert gradients.keys() == parts[0].keys()
        for name, gradient in gradients.items():
            whole = [part[name] for part in parts]
            if hook == "bf16":
                whole = [part.bfloat16() for part in whole]
            expected = (whole[0] / count + whole[1] / count).float()
            assert torch.equal(gradient, expected), (hook, name)
    if rank == 0:
        print("ddp:", count, flush=True)


def peak_shares(criterion) -> float:
    """The most that forward and backward of a loss allocate, in shares: ROWS x WIDTH numbers."""
    images, texts = (embeds(ROWS, seed, WIDTH).requires_grad_() for seed in (0, 1))
    if dist.get_rank() > 0:
        criterion(images, texts, *scalars()).backward()
        return 0.0
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        criterion(images, texts, *scalars()).backward()
    events = recorded.profiler.kineto_results.events()
    sizes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]
    allocated = largest = 0
    for _, size in sorted(sizes, key=lambda one: one[0]):
        allocated += size
        largest = max(largest, allocated)
    return largest / texts.nbytes


def check_memory(rank: int, count: int):
    """Print the peaks of losses whose texts travel, and of one whose texts are gathered."""
    peaks = {
        "clip-ring": peak_shares(ClipLoss(0, TILE, "ring")),
        "siglip-ring": peak_shares(SigLipLoss(TILE, "ring")),
        "clip-gather": peak_shares(ClipLoss(0, TILE)),
    }
    if rank == 0:
        for name, shares in peaks.items():
            print("peak:", count, name, f"{shares:.3f}", flush=True)


def main():
    torch.set_num_threads(1)
    for count in (2, 3, 4):
        # A matrix of weights is cut by the number of processes.
        expected = {name: run(name, None, "gather", 0, 1, count) for name in RING}
        fork(count, check_gather)
        fork(count, check_ring, expected)
    whole = task_gradients(make_batch(slice(None)), True)
    assert whole[0] == ["vision_model", "text_model"], "one process has nothing to hide"
    for count in (2, 4):
        fork(count, check_early, whole)
    fork(2, check_ddp, [ddp_gradients("no", rank, 1) for rank in range(2)])
    for count in (4, 8):
        fork(count, check_memory)


if __name__ == "__main__":
    main()
