"""The command `clip-vit preview`: a picture of the first batch that a recipe trains on."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from jsonargparse.typing import PositiveInt

from ..data.errors import DataError
from ..data.mixing import mix_batch
from ..data.native import join_patches
from ..utils.command_line import CommandParser
from ..utils.folders import check_picture, replaced_file
from .arguments import TrainArguments
from .command import REPLACED, add_recipe_options, field_types, parse_recipe, read_arguments
from .restart import Restart
from .tasks import find_task


def run_preview(arguments: list[str]) -> int:
    """Save a picture of augmented and mixed images with their texts."""
    types_by_name = {**field_types(), **get_type_hints(PreviewOptions)}
    options = parse_recipe(build_parser(), arguments, types_by_name)
    path = Path(options.save)
    check_picture(path)
    save_preview(read_arguments(options), path, options.count)
    print(f"saved {path}")
    return 0


@dataclass
class PreviewOptions:
    """What to draw; the other options are those of clip-vit train.

    Args:
        save: image file to write.
        count: number of images to draw.
    """

    save: str
    count: PositiveInt = 24


def build_parser() -> CommandParser:
    """The arguments of `clip-vit preview`: its own, and all of `clip-vit train`."""
    parser = CommandParser(
        prog="clip-vit preview",
        usage="%(prog)s --save FILE [--count COUNT] [--config RECIPE] [--OPTION VALUE ...]",
        description="Draw the first batch that a recipe trains on: the augmented and mixed images "
        "with their texts.",
        example="clip-vit preview --config emoji --save batch.png",
        replaced=REPLACED,
    )
    parser.add_class_arguments(PreviewOptions, as_group=True)
    add_recipe_options(parser)
    return parser


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


def draw_pixels(batch: dict, processor: Any) -> list[torch.Tensor]:
    """Pixels to look at of each image, uint8 (height, width, 3), of normalised ones."""
    images = getattr(processor, "image_processor", processor)
    mean, std = (torch.tensor(v)[:, None, None] for v in (images.image_mean, images.image_std))
    values = list(batch["pixel_values"])
    if "spatial_shapes" in batch:
        shapes = batch["spatial_shapes"].tolist()
        values = [
            join_patches(patches, rows, columns, images.patch_size)
            for patches, (rows, columns) in zip(values, shapes, strict=True)
        ]
    pixels = [(image * std + mean).clamp(0, 1) for image in values]
    return [(image * 255).round().to(torch.uint8).permute(1, 2, 0) for image in pixels]
