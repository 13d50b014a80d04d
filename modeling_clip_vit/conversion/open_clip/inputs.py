"""Check that a processor prepares images and texts as open_clip does."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..weights import ConversionError
from .model import import_open_clip

#: Largest difference of a pixel, of 255 levels: Transformers resizes with torchvision, and
#: open_clip with Pillow, which round in different places.
LEVELS = 6
TEXTS = [
    "a photo of a cat",
    "A Dog's  big_bone, (42 kg)!",
    "a na\u00efve caf\u00e9",
    "一只猫 on a mat",
    "",
    "many words " * 100,
]


def compare_inputs(peer: Any, processor: Any, folder: Path) -> float:
    """Prepare the same images and texts with open_clip and with a processor of Transformers.

    Args:
        peer: a model of open_clip from the folder.
        processor: of the conversion.
        folder: with open_clip_config.json, and the tokenizer if it is not CLIP's own.

    Returns:
        The largest difference of a pixel, of 255 levels.

    Raises:
        ConversionError: the images differ by more than rounding, or a text has other tokens.
    """
    open_clip = import_open_clip()
    compare_texts(open_clip.get_tokenizer(f"local-dir:{folder}"), processor.tokenizer)
    fields = open_clip.transform.PreprocessCfg(**peer.visual.preprocess_cfg)
    transform = open_clip.transform.image_transform_v2(fields, is_train=False)
    levels = max(
        pixel_levels(transform(image), processor.image_processor, image)
        for image in make_pictures(peer.visual.image_size)
    )
    if not levels <= LEVELS:
        raise ConversionError(
            f"the processor prepares images otherwise than open_clip: pixels differ by {levels:.0f}"
            f" of 255 levels (at most {LEVELS} is rounding)"
        )
    return levels


def make_pictures(size: Any) -> list[Image.Image]:
    """Pictures as a file gives them: wide, tall, square and small, one of them of grey levels.

    The crop of their middle has whole margins, which the libraries round differently.
    """
    side = size if isinstance(size, int) else size[0]
    short = side + side // 3
    generator = np.random.default_rng(0)
    pictures: list[Image.Image] = []
    for width, height, mode in (
        (3 * short, short, "RGB"),
        (short, 3 * short, "L"),
        (short, short, "RGB"),
        (side // 2, side // 2, "RGB"),
    ):
        coarse = generator.integers(0, 256, (height // 8 + 2, width // 8 + 2, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        picture.convert(mode).save(file, format="PNG")
        pictures.append(Image.open(file))
    return pictures


def pixel_levels(expected: torch.Tensor, image_processor: Any, image: Image.Image) -> float:
    """The largest difference of a pixel, of 255 levels; infinite where the sizes differ."""
    values = image_processor(image.convert("RGB"), return_tensors="pt").pixel_values[0]
    if values.shape != expected.shape:
        return float("inf")
    std = torch.tensor(image_processor.image_std)[:, None, None]
    return float(((values - expected) * std * 255).abs().max())


def compare_texts(theirs: Any, tokenizer: Any):
    """Check that both make the same tokens of some texts; what a mask hides may differ.

    Raises:
        ConversionError: they do not; the message has the text.
    """
    expected = theirs(TEXTS)
    tokens = tokenizer(
        TEXTS,
        padding="max_length",
        truncation=True,
        max_length=expected.shape[1],
        return_tensors="pt",
    )
    mask = tokens.get("attention_mask", torch.ones_like(expected)).bool()
    is_same = (tokens["input_ids"] == expected) | ~mask
    for text, row in zip(TEXTS, is_same, strict=True):
        if not row.all():
            place = int((~row).nonzero()[0])
            raise ConversionError(
                f"the tokenizer reads {text[:40]!r} otherwise than open_clip's, from token {place}"
            )
