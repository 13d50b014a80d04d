"""Embed images and texts in batches, ready to be compared by a dot product.

Shape legend: `N` items, `P` projection, `S` side in pixels.
"""

from collections.abc import Sequence

import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812
from transformers import CLIPModel, CLIPProcessor, PreTrainedTokenizerBase

from ..data.transforms import normalize
from ..modeling_clip_vit import ClipVitModel


def padding_of(tokenizer: PreTrainedTokenizerBase) -> bool | str:
    """How a batch is padded: to its longest text; or fully, where no mask tells what is padding.

    A model without a mask (SigLIP) was trained on texts of full length.
    """
    return True if "attention_mask" in tokenizer.model_input_names else "max_length"


@torch.inference_mode()
def embed_texts(
    model: ClipVitModel | CLIPModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    batch_size: int = 256,
) -> torch.Tensor:
    """Embed texts with a CLIP: float32 of length 1, (N, P), on the CPU.

    Texts longer than the model's positions are cut.
    """
    parts = []
    for start in range(0, len(texts), batch_size):
        tokens = tokenizer(
            list(texts[start : start + batch_size]),
            padding=padding_of(tokenizer),
            truncation=True,
            return_tensors="pt",
        )
        outputs = model.get_text_features(**tokens.to(model.device))
        parts.append(F.normalize(outputs.pooler_output.float(), dim=-1).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def embed_pixels(
    model: ClipVitModel | CLIPModel,
    processor: CLIPProcessor,
    pixels: torch.Tensor,
    batch_size: int = 256,
) -> torch.Tensor:
    """Embed decoded images, uint8 (N, 3, S, S) of the model's size: float32 (N, P) of length 1."""
    mean, std = processor.image_processor.image_mean, processor.image_processor.image_std
    parts = []
    for batch in pixels.split(batch_size):
        values = normalize(batch.float() / 255, mean, std).to(model.device, model.dtype)
        outputs = model.get_image_features(values)
        parts.append(F.normalize(outputs.pooler_output.float(), dim=-1).cpu())
    return torch.cat(parts)


@torch.inference_mode()
def embed_images(
    model: ClipVitModel | CLIPModel,
    processor: CLIPProcessor,
    images: Sequence[Image.Image],
    batch_size: int = 64,
) -> torch.Tensor:
    """Embed RGB images of any size as the checkpoint's processor prepares them: float32 (N, P)."""
    parts = []
    for start in range(0, len(images), batch_size):
        inputs = processor(images=list(images[start : start + batch_size]), return_tensors="pt")
        values = inputs["pixel_values"].to(model.device, model.dtype)
        outputs = model.get_image_features(values)
        parts.append(F.normalize(outputs.pooler_output.float(), dim=-1).cpu())
    return torch.cat(parts)
