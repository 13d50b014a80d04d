"""The command `clip-vit preview`: a picture of the first batch that a recipe trains on."""

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..data.errors import DataError
from ..data.mixing import mix_batch
from ..utils.errors import UserError
from ..utils.folders import check_picture, replaced_file
from .arguments import TrainArguments
from .command import parse_arguments
from .restart import Restart
from .tasks import find_task


def run_preview(arguments: list[str]) -> int:
    """Save a picture of augmented and mixed images with their texts.

    Args:
        arguments: those of training, `--save PICTURE` and `--count IMAGES`.
    """
    parser = argparse.ArgumentParser(
        prog="clip-vit preview",
        description="Draw the first batch that a recipe trains on: the augmented and mixed images "
        "with their texts. Accepts all options of clip-vit train.",
        usage="%(prog)s --config RECIPE [--OPTION VALUE ...] --save FILE [--count N]",
        epilog="example: clip-vit preview --config emoji --save batch.png",
        allow_abbrev=False,
    )
    parser.add_argument("--save", type=Path, required=True, help="image file to write")
    parser.add_argument("--count", type=int, default=24, help="number of images to show")
    options, others = parser.parse_known_args(arguments)
    if options.count < 1:
        raise UserError(f"count={options.count} is not allowed: it must be at least 1")
    check_picture(options.save)
    save_preview(parse_arguments(others), options.save, options.count)
    print(f"saved {options.save}")
    return 0


def save_preview(args: TrainArguments, path: Path, count: int = 24):
    """Save a picture of images of the first batch, with those of a concept next to each other.

    Raises:
        DataError: the batch has no readable image.
    """
    from ..inference.pictures import Found, save_picture_grid

    # Workers would prepare the same images, and nothing is evaluated.
    args = replace(args, data=replace(args.data, evaluations=[], dataloader_num_workers=0))
    task = find_task(args.run.task)(args)
    preparation = task.prepare(Restart())
    data = preparation.data
    data.sampler.set_epoch(0)
    batch = next(iter(data.loader))
    if "pixel_values" not in batch:
        first = batch["skipped"][0]
        raise DataError(f"no image of the first batch can be read: {first.name} ({first.reason})")
    batch = mix_batch(batch, args.mix, progress=0)
    pixels = draw_pixels(batch, preparation.processor)
    titles = task.describe_batch(batch, preparation)
    ids = batch["image_ids"].tolist()
    order = sorted(range(len(ids)), key=lambda row: ids.index(ids[row]))[:count]
    with replaced_file(path) as partial:
        save_picture_grid(partial, [Found(pixels[row].numpy(), titles[row]) for row in order])


def draw_pixels(batch: dict, processor: Any) -> torch.Tensor:
    """Pixels to look at, uint8 (B, S, S, 3), of normalised ones."""
    images = getattr(processor, "image_processor", processor)
    mean, std = (torch.tensor(v)[:, None, None] for v in (images.image_mean, images.image_std))
    pixels = (batch["pixel_values"] * std + mean).clamp(0, 1)
    return (pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
