"""Embed images and texts in batches, ready to be compared by a dot product.

Shape legend: `N` items, `B` items of a batch, `P` projection, `S` side in pixels.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812
from transformers import BatchFeature, CLIPModel, CLIPProcessor, PreTrainedTokenizerBase
from transformers.tokenization_utils_base import LARGE_INTEGER

from ..data.transforms import normalize
from ..modeling_clip_vit import ClipVitModel
from ..utils.errors import UserError

Item = TypeVar("Item")


def embed_text_batches(
    embed: Callable[[list[str]], torch.Tensor], texts: str | Sequence[str], batch_size: int
) -> torch.Tensor:
    """Embed texts a batch at a time, (N, P); a string is one text."""
    return embed_batches(embed, [texts] if isinstance(texts, str) else texts, batch_size, "")


def embed_image_batches(
    embed: Callable[[list[Image.Image]], torch.Tensor],
    images: Sequence[Image.Image],
    batch_size: int,
) -> torch.Tensor:
    """Embed images a batch at a time, (N, P)."""
    return embed_batches(embed, images, batch_size, Image.new("RGB", (64, 64)))


def embed_batches(
    embed: Callable[[list[Item]], torch.Tensor],
    items: Sequence[Item],
    batch_size: int,
    example: Item,
) -> torch.Tensor:
    """Embed items a batch at a time, (N, P).

    Args:
        embed: embeds a list of at least one item, (B, P).
        items: what to embed.
        batch_size: number of items to embed at a time.
        example: embedded if there are no items, to find P.
    """
    batches = (items[start : start + batch_size] for start in range(0, len(items), batch_size))
    parts = [embed(list(batch)) for batch in batches]
    return torch.cat(parts or [embed([example])[:0]])


@torch.inference_mode()
def embed_texts(
    model: ClipVitModel | CLIPModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: str | Sequence[str],
    batch_size: int = 256,
) -> torch.Tensor:
    """Embed texts with a CLIP: float32 of length 1, (N, P), on the CPU.

    Texts longer than the model's positions are truncated. A string is one text.
    """
    options = options_for(model, tokenizer)

    def embed(batch: list[str]) -> torch.Tensor:
        tokens = tokenizer(batch, return_tensors="pt", **options)
        outputs = model.get_text_features(**tokens.to(model.device))
        return F.normalize(outputs.pooler_output.float(), dim=-1).cpu()

    return embed_text_batches(embed, texts, batch_size)


def options_for(
    model: ClipVitModel | CLIPModel, tokenizer: PreTrainedTokenizerBase
) -> dict[str, Any]:
    """Arguments of a tokenizer call for a CLIP."""
    is_padding_read = reads_padding(model.config.model_type, tokenizer)
    return text_options(is_padding_read, longest_text(model.config.text_config, tokenizer))


def reads_padding(model_type: str, tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether a model reads padding as text.

    SigLIP, and what was converted from it, does: it was trained on texts of full length without an
    attention mask, and embeds a shorter one differently. A model that takes an attention mask
    ignores padding, so texts are padded only to the longest in the batch.
    """
    has_mask = "attention_mask" in tokenizer.model_input_names
    return model_type.startswith("siglip") or not has_mask


def text_options(is_padding_read: bool, max_length: int | None) -> dict[str, Any]:
    """Arguments of a tokenizer call for a model with this maximum length."""
    return {
        "padding": "max_length" if is_padding_read else True,
        "truncation": True,
        "max_length": max_length,
        "return_attention_mask": not is_padding_read,
    }


def longest_text(text_config: Any, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The most tokens that a text tower and its tokenizer take; None where neither says."""
    positions = getattr(text_config, "max_position_embeddings", None)
    limit = min(tokenizer.model_max_length, positions or LARGE_INTEGER)
    return None if limit >= LARGE_INTEGER else limit


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

    def embed(batch: list[Image.Image]) -> torch.Tensor:
        return embed_image_inputs(model, processor.image_processor(batch, return_tensors="pt"))

    return embed_image_batches(embed, images, batch_size)


@torch.inference_mode()
def embed_image_inputs(model: ClipVitModel | CLIPModel, inputs: BatchFeature) -> torch.Tensor:
    """Embed what an image processor made of images: float32 (N, P) of length 1, on the CPU."""
    outputs = model.get_image_features(**inputs.to(model.device, model.dtype))
    return F.normalize(outputs.pooler_output.float(), dim=-1).cpu()


@torch.inference_mode()
def similarity_of(model: ClipVitModel | CLIPModel) -> tuple[float, float | None]:
    """The factor on cosines that makes them logits, and what is added: None without a bias."""
    if isinstance(model, ClipVitModel):
        scale, bias = model.get_logit_scale(), model.get_logit_bias()
    else:
        scale, bias = model.logit_scale.exp(), getattr(model, "logit_bias", None)
    return scale.item(), None if bias is None else bias.item()


def check_finite(embeds: torch.Tensor, what: str) -> torch.Tensor:
    """Embeddings as they are, if all of them are numbers.

    Args:
        embeds: (N, P).
        what: what was embedded, for the message.

    Raises:
        UserError: some are not; such a model can be neither measured nor searched with.
    """
    bad = int((~embeds.isfinite().all(dim=1)).sum())
    if bad:
        raise UserError(
            f"the model gives {bad} of {len(embeds)} {what} an embedding that is not a number: its "
            "weights are damaged, or overflow in half precision"
        )
    return embeds
