"""The command `clip-vit preview`: a picture of the first batch that a recipe trains on."""

import argparse
import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from transformers import CLIPProcessor

from ..data.errors import DataError
from ..data.mixing import mix_batch
from ..utils.errors import UserError
from ..utils.folders import check_picture
from .arguments import TrainArguments
from .command import parse_arguments
from .preparation import prepare


def run_preview(arguments: list[str]) -> int:
    """Save a picture of augmented and mixed images with their texts.

    Args:
        arguments: those of training, `--save PICTURE` and `--count IMAGES`.
    """
    parser = argparse.ArgumentParser(
        prog="clip-vit preview",
        description="Draw the first batch that a recipe trains on: images as they are augmented "
        "and mixed, with their texts and weights. Takes the recipe and fields of clip-vit train.",
        usage="%(prog)s --config RECIPE [--FIELD VALUE ...] --save PICTURE [--count IMAGES]",
        allow_abbrev=False,
    )
    parser.add_argument("--save", type=Path, required=True, help="the picture to write")
    parser.add_argument("--count", type=int, default=24, help="so many images of the batch")
    options, others = parser.parse_known_args(arguments)
    if options.count < 1:
        raise UserError(f"count={options.count} is not allowed: it must be at least 1")
    check_picture(options.save)
    save_preview(parse_arguments(others), options.save, options.count)
    print(f"saved {options.save}")
    return 0


def save_preview(args: TrainArguments, path: Path, count: int = 24):
    """Save a picture of images of the first batch, those of a concept beside each other.

    Raises:
        DataError: the batch has no readable image.
    """
    from ..inference.pictures import Found, save_picture_grid

    # The same images, whoever prepares them, and nothing is measured on them.
    args = replace(args, data=replace(args.data, eval_split=None, dataloader_num_workers=0))
    preparation = prepare(args)
    data, processor = preparation.data, preparation.processor
    data.sampler.set_epoch(0)
    batch = next(iter(data.loader))
    if "pixel_values" not in batch:
        first = batch["skipped"][0]
        raise DataError(f"no image of the first batch can be read: {first.name} ({first.reason})")
    batch = mix_batch(batch, args.mix, progress=0)
    pixels, titles = draw_pixels(batch, processor), describe(batch, processor)
    ids = batch["image_ids"].tolist()
    order = sorted(range(len(ids)), key=lambda row: ids.index(ids[row]))[:count]
    save_picture_grid(path, [Found(pixels[row].numpy(), titles[row]) for row in order])


def draw_pixels(batch: dict, processor: CLIPProcessor) -> torch.Tensor:
    """Pixels to look at, uint8 (B, S, S, 3), of normalised ones."""
    mean, std = (
        torch.tensor(values)[:, None, None]
        for values in (processor.image_processor.image_mean, processor.image_processor.image_std)
    )
    images = (batch["pixel_values"] * std + mean).clamp(0, 1)
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def describe(batch: dict, processor: CLIPProcessor) -> list[str]:
    """What each image shows, as its texts say, and how much of each where it is mixed."""
    texts: defaultdict[int, list[str]] = defaultdict(list)
    decoded = processor.tokenizer.batch_decode(batch["input_ids"], skip_special_tokens=True)
    for identity, text in zip(batch["text_ids"].tolist(), decoded, strict=True):
        # A Chinese character is a word of its own to the tokenizer.
        texts[identity].append(re.sub(r"(?<=[㐀-鿿]) (?=[㐀-鿿])", "", text.strip()))
    ids = batch["image_ids"].tolist()
    if "mixed_ids" not in batch:
        return [" / ".join(texts[identity]) for identity in ids]
    short = {identity: shorten(captions[0]) for identity, captions in texts.items()}
    mixed = zip(ids, batch["mixed_ids"].tolist(), batch["mix_weight"].tolist(), strict=True)
    return [
        " / ".join(texts[first])
        if weight == 1 or first == second
        else f"{weight:.2f} {short[first]} + {1 - weight:.2f} {short[second]}"
        for first, second, weight in mixed
    ]


def shorten(text: str, length: int = 22) -> str:
    """The beginning of a text, so that another has room beside it."""
    return text if len(text) <= length else text[: length - 1] + "…"
