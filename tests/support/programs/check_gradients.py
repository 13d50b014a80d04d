"""Launched in several processes: every way to train gives the gradients of one process.

One process computes the gradients of a whole batch before the processes meet; then each has an
uneven part of it, and every loss, tiled or not, with and without gradient cache, under
DistributedDataParallel and FSDP2, must end with the same gradients. Prints a line a combination.
"""

import itertools
import sys

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.functional import normalize
from torch.nn.parallel import DistributedDataParallel

from modeling_clip_vit.losses import (
    ClipLoss,
    DistillationLoss,
    HardNegativeLoss,
    MatryoshkaLoss,
    MixedIds,
    MultiPositiveLoss,
    SigLipLoss,
)
from modeling_clip_vit.training.gradient_cache import cached_backward, cut
from tests.support.models import make_images, make_texts, small_model

#: Images and texts of each process, by number of processes.
IMAGES = {1: [8], 2: [5, 3], 4: [3, 1, 2, 2]}
TEXTS = {1: [7], 2: [3, 4], 4: [2, 1, 3, 1]}
IMAGE_IDS = torch.tensor([0, 1, 2, 3, 4, 0, 1, 9])
TEXT_IDS = torch.tensor([0, 1, 2, 3, 4, 2, 8])
MIX_WEIGHT = torch.tensor([0.3, 1, 0.8, 0.5, 0.1, 1, 0.6, 0.9]).double()
#: Name -> loss for a size of tile and an exchange of texts, and what its targets are.
LOSSES = {
    "clip": (lambda *exchange: ClipLoss(0, *exchange), "pairs"),
    "multi_positive": (lambda *exchange: MultiPositiveLoss(0.1, *exchange), "ids"),
    "soft": (lambda *exchange: MultiPositiveLoss(0, *exchange), "matrix"),
    "mixed": (lambda *exchange: MultiPositiveLoss(0.1, *exchange), "mixed ids"),
    "siglip": (lambda *exchange: SigLipLoss(*exchange), "mixed ids"),
    "hard_negative": (lambda *exchange: HardNegativeLoss(0.3, *exchange), "ids of pairs"),
    "matryoshka": (lambda *exchange: MatryoshkaLoss(ClipLoss(0, *exchange), [4, 8]), "pairs"),
    "distillation": (lambda tile, _: DistillationLoss(ClipLoss(0, tile), 0.4, tile), "pairs"),
}
#: How models are wrapped, and how texts meet all images.
STRATEGIES = [("ddp", "gather"), ("ddp", "ring"), ("fsdp2", "gather")]


def part_of(values: torch.Tensor, sizes: list[int], rank: int) -> torch.Tensor:
    return values.split(sizes)[rank]


def make_case(kind: str, rank: int, count: int):
    """Inputs, targets and a teacher's embeddings of one process."""
    images, texts = make_images(8).double(), make_texts([4, 6, 5, 3, 6, 4, 5, 6])
    is_paired = "pairs" in kind
    image_sizes = IMAGES[count]
    text_sizes = image_sizes if is_paired else TEXTS[count]
    texts = {name: values[: 8 if is_paired else 7] for name, values in texts.items()}
    inputs = {"pixel_values": part_of(images, image_sizes, rank)}
    inputs |= {name: part_of(values, text_sizes, rank) for name, values in texts.items()}
    targets = make_targets(kind, rank, count, size_of())
    generator = torch.Generator().manual_seed(5)
    teacher = normalize(torch.randn(2, 8, 12, generator=generator, dtype=torch.float64), dim=-1)
    teacher = [part_of(embeds, image_sizes, rank) for embeds in teacher]
    return inputs, targets, (*teacher, torch.tensor(9.0, dtype=torch.float64))


def make_targets(kind: str, rank: int, count: int, size: int):
    """Targets of one of `count` processes, 1 or the `size` of the launch."""
    image_sizes, text_sizes = IMAGES[count], TEXTS[count]
    if kind == "ids":
        return part_of(IMAGE_IDS, image_sizes, rank), part_of(TEXT_IDS, text_sizes, rank)
    if kind == "mixed ids":
        mixed = (IMAGE_IDS, IMAGE_IDS.roll(3), MIX_WEIGHT)
        mixed = MixedIds(*(part_of(values, image_sizes, rank) for values in mixed))
        return mixed, part_of(TEXT_IDS, text_sizes, rank)
    if kind == "ids of pairs":
        return (part_of(IMAGE_IDS, image_sizes, rank),) * 2
    if kind == "matrix":  # weights within each process's part, for the whole and for the parts
        blocks = [
            torch.rand(i, t, generator=torch.Generator().manual_seed(number))
            for number, (i, t) in enumerate(zip(IMAGES[size], TEXTS[size], strict=True))
        ]
        return torch.block_diag(*blocks) if count == 1 else blocks[rank]
    return None


def size_of() -> int:
    """Number of processes of this launch, also before they have met."""
    return int(sys.argv[1])


def backward(
    model, base, name: str, exchange, is_cached: bool, rank: int, count: int
) -> torch.Tensor:
    """Leave the gradients of one loss in the parameters, and return its value.

    `exchange` is the size of a tile, and how texts are exchanged.
    """
    make, kind = LOSSES[name]
    criterion = make(*exchange)
    inputs, targets, teacher = make_case(kind, rank, count)
    more = {"teacher": teacher} if name == "distillation" else {}

    def loss(images, texts, scale, bias):
        return criterion(images, texts, scale, bias, targets, **more), None

    base.zero_grad()
    if is_cached:
        return cached_backward(model, base.similarity, cut(inputs, 2), loss)[0]
    outputs = model(**inputs)
    scale, bias = base.get_logit_scale(), base.get_logit_bias()
    value, _ = loss(outputs.image_embeds, outputs.text_embeds, scale, bias)
    value.backward()
    return value.detach()


def read_gradients(base) -> dict[str, torch.Tensor]:
    result = {}
    for name, parameter in base.named_parameters():
        gradient = parameter.grad
        if gradient is not None:
            gradient = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
            result[name] = gradient.clone()
    return result


def make_model():
    vision = {"attention_gate": "headwise", "value_residual": True}
    return small_model(vision, logit_bias_init_value=-3.0).double().train()


def make_batch_norm_model():
    vision = {"norm_type": "batchnorm", "patch_embedding": "conv_stem"}
    return small_model(vision, {"norm_type": "batchnorm"}).double().train()


def largest_error(gradients: dict, whole: dict) -> float:
    """Of gradients against those of one process; a missing one counts as zeros."""
    zero = torch.zeros(())
    names = gradients.keys() | whole.keys()
    return max(float((gradients.get(n, zero) - whole.get(n, zero)).abs().max()) for n in names)


def shard(model):
    """FSDP2, block by block."""
    for tower in (model.vision_model, model.text_model):
        for layer in tower.encoder.layers:
            fully_shard(layer)
    fully_shard(model)
    return model


def main():
    base, expected = make_model(), {}
    for name in LOSSES:
        value = backward(base, base, name, (None, "gather"), False, 0, 1)
        expected[name] = value, read_gradients(base)
    base = make_batch_norm_model()
    backward(base, base, "clip", (None, "gather"), False, 0, 1)
    batch_norm_gradients, batch_norm_buffers = read_gradients(base), dict(base.named_buffers())
    accelerator = Accelerator(cpu=True)
    rank, count = accelerator.process_index, accelerator.num_processes
    assert count == size_of(), f"{count} processes have met, of {size_of()}"
    for strategy, exchange in STRATEGIES:
        base = make_model()
        if strategy == "ddp":
            model = DistributedDataParallel(base, find_unused_parameters=True)
        else:
            model = shard(base)
        for name, tile, is_cached in itertools.product(LOSSES, (None, 3), (False, True)):
            if exchange == "ring" and (name not in ("multi_positive", "siglip") or tile is None):
                continue  # check_exchange.py compares all of them
            value = backward(model, base, name, (tile, exchange), is_cached, rank, count)
            whole_value, whole = expected[name]
            gradients = read_gradients(base)
            error = max(float((value - whole_value).abs()), largest_error(gradients, whole))
            assert error <= 1e-10, (strategy, exchange, name, tile, is_cached, rank, error)
            if rank == 0:
                words = "tiled" if tile else "whole", "cached" if is_cached else "at once"
                print("equal:", strategy, exchange, name, *words, f"{error:.0e}", flush=True)
    base = make_batch_norm_model()
    model = DistributedDataParallel(base)
    backward(model, base, "clip", (3, "gather"), False, rank, count)
    error = largest_error(read_gradients(base), batch_norm_gradients)
    moved = [name for name, _ in base.named_buffers() if "running" in name]
    for name in moved:
        difference = base.get_buffer(name) - batch_norm_buffers[name]
        error = max(error, float(difference.abs().max()))
    assert moved
    assert error <= 1e-10, ("batch norm", rank, error)
    if rank == 0:
        print("equal: ddp clip with batch norm", f"{error:.0e}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
