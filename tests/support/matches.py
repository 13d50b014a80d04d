"""Matches of a picture and a text with small models, to explain."""

import torch
from PIL import Image
from transformers import CLIPProcessor

from modeling_clip_vit.explain.match import Match, prepare
from modeling_clip_vit.inference.loading import TorchEncoder

#: A text with a word of several tokens, and Chinese.
TEXT = "a reddish square 蓝色方块"


def noise(width: int = 32, height: int = 32) -> Image.Image:
    """A picture of random pixels, all of whose parts differ."""
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def match_of(model, processor: CLIPProcessor, text: str = TEXT, **kwargs) -> Match:
    """A picture and a text as a model sees them."""
    return prepare(TorchEncoder(model, processor), noise(), text, **kwargs)
