"""Trainers that are built from objects, without data on a disk, to do single steps."""

import torch
from accelerate import Accelerator
from torch.testing import assert_close
from torch.utils.data import DataLoader

from modeling_clip_vit.data.batches import Collator, split_views
from modeling_clip_vit.data.columns import Columns
from modeling_clip_vit.data.rows import BadSamples
from modeling_clip_vit.data.transforms import AugmentOptions
from modeling_clip_vit.training.command import parse_arguments
from modeling_clip_vit.training.datasets import TrainingData
from modeling_clip_vit.training.tasks import ContrastiveTask, Preparation
from modeling_clip_vit.training.trainer import Trainer

from .models import make_texts, small_model

LENGTHS = [4, 7, 6, 5, 3, 8]
IDS = torch.tensor([0, 0, 1, 1, 2, 2])
#: One rate for all updates, and every gradient at its own length.
PLAIN = {
    "lr_scheduler_type": "constant",
    "warmup_ratio": 0,
    "max_grad_norm": 0,
    "max_steps": 100,
    "logging_steps": 1,
    "pack_texts": "false",
}


class GivenBatches(Collator):
    """Makes batches of rows that are batches already."""

    def __init__(self):
        super().__init__(None, AugmentOptions(), [0.5] * 3, [0.5] * 3)

    def __call__(self, samples: list) -> dict:
        return samples[0]


class FixedOrder:
    """A sampler of the same batches in every epoch."""

    def set_epoch(self, epoch: int):
        """There is nothing to shuffle."""


def make_batch(seed: int = 0) -> dict:
    """Six images and texts of three concepts."""
    generator = torch.Generator().manual_seed(seed)
    return {
        **make_texts(LENGTHS),
        "pixel_values": torch.randn(6, 3, 32, 32, generator=generator),
        "image_ids": IDS,
        "text_ids": IDS,
        **split_views([True, False] * 3),
        "skipped": [],
    }


def build(
    tmp_path, model=None, processor=None, new_parts=(), accelerator=None, **options
) -> Trainer:
    """A trainer of a small model on one batch."""
    values = {**PLAIN, "output_dir": tmp_path / "out", **options}
    args = parse_arguments([f"--{name}={value}" for name, value in values.items()])
    loader = DataLoader([make_batch()] * 8, batch_size=1, collate_fn=GivenBatches())
    data = TrainingData(loader, FixedOrder(), BadSamples(0.01), 6, 3)
    model = model or small_model(logit_bias_init_value=-3.0)
    preparation = Preparation(
        model.train(),
        processor,
        data,
        [],
        [],
        Columns("image", ["caption"], None),
        new_parts=list(new_parts),
    )
    steps = args.optimizer.gradient_accumulation_steps
    accelerator = accelerator or Accelerator(cpu=True, gradient_accumulation_steps=steps)
    return Trainer(ContrastiveTask(args), preparation, accelerator, args)


def weights_of(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_same_weights(model, other, **tolerances):
    expected = weights_of(other)
    for name, weight in weights_of(model).items():
        assert_close(weight, expected[name], msg=name, **(tolerances or {"atol": 1e-6, "rtol": 0}))
