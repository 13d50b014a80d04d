"""Check that a processor prepares images and texts as open_clip does."""

from pathlib import Path
from typing import Any

import torch

from ..pictures import check_levels, make_pictures, pixel_levels
from ..weights import ConversionError
from .model import import_open_clip

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
    return check_levels(levels, "open_clip")


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
