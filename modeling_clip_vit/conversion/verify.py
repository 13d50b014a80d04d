"""Check that a converted model computes what its source does."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.models import VisionTransformer
from torch import nn
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from ..modeling_clip_vit import ClipVitForImageClassification, ClipVitVisionModel
from ..towers import run_tower
from .trial_inputs import image_inputs, text_inputs
from .weights import ConversionError

#: Largest difference of a normalised embedding, and of other outputs as a share of the largest.
TOLERANCE = 1e-5
NORMALISED = ("image_embeds", "text_embeds")


def is_tower(model: Any) -> bool:
    """Whether a model has images alone: an image tower or a classifier, of ours or of timm."""
    own = ClipVitVisionModel | ClipVitForImageClassification
    return isinstance(model, own) or is_timm(model)


def is_timm(model: Any) -> bool:
    """Whether a model is one of timm."""
    return hasattr(model, "forward_head") and hasattr(model, "pretrained_cfg")


def pool(model: Any, images: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The pooled output of the image tower of a model of ours or timm, and the logits of classes.

    A classifier of timm that is no plain ViT may pool in its head, and gives logits alone.
    """
    if is_timm(model):
        pixels = images["pixel_values"]
        logits = {"logits": model(pixels)} if model.num_classes else {}
        if logits and not isinstance(model, VisionTransformer):
            return logits
        features = model.forward_features(pixels)
        return {**logits, "pooler_output": model.forward_head(features, pre_logits=True)}
    is_alone = isinstance(model, ClipVitVisionModel)
    tower: Any = model if is_alone else model.vision_model
    pooled = run_tower(tower, images).pooler_output
    assert pooled is not None, "every tower of ours pools"
    if isinstance(model, ClipVitForImageClassification):
        return {"logits": model.classifier(pooled), "pooler_output": pooled}
    return {"pooler_output": pooled}


def embed(
    model: Any, images: dict[str, torch.Tensor], texts: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Normalised embeddings and logits of a joint model of ours, Transformers or open_clip."""
    if isinstance(model, PreTrainedModel):
        outputs = model(**images, **texts)
        return {
            "image_embeds": outputs.image_embeds,
            "text_embeds": outputs.text_embeds,
            "logits": outputs.logits_per_image,
        }
    image_embeds = normalize(model.encode_image(images["pixel_values"]), dim=-1)
    text_embeds = normalize(model.encode_text(texts["input_ids"]), dim=-1)
    logits = model.logit_scale.exp() * image_embeds @ text_embeds.t()
    bias = getattr(model, "logit_bias", None)
    return {
        "image_embeds": image_embeds,
        "text_embeds": text_embeds,
        "logits": logits if bias is None else logits + bias,
    }


@contextmanager
def in_float32(*models: nn.Module) -> Iterator[None]:
    """Put models into float32 and evaluation mode; on exit, the weights get their dtypes back."""
    dtypes = [[weight.dtype for weight in model.parameters()] for model in models]
    for model in models:
        model.float().eval()
    try:
        yield
    finally:
        for model, before in zip(models, dtypes, strict=True):
            for weight, dtype in zip(model.parameters(), before, strict=True):
                weight.data = weight.data.to(dtype)


def compare(
    before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], tolerance: float = TOLERANCE
) -> dict[str, float]:
    """The largest difference of each output, relative to its largest value unless normalised.

    Raises:
        ConversionError: a difference is larger than float32 explains.
    """
    differences = {}
    for name, expected in before.items():
        scale = 1.0 if name in NORMALISED else float(expected.abs().max())
        differences[name] = float((after[name] - expected).abs().max()) / scale
    wrong = {name: value for name, value in differences.items() if not value <= tolerance}
    if wrong:
        listed = ", ".join(f"{name} by {value:.1e}" for name, value in wrong.items())
        raise ConversionError(
            f"the converted model differs in {listed} (at most {tolerance:.0e} is allowed), so "
            "it is not given out"
        )
    return differences


def trial_config(source: Any, target: Any, config: Any) -> Any:
    """The configuration of an image tower that says what images to try two models on.

    Args:
        source, target: the models.
        config: our configuration of them.
    """
    for model in (source, target):
        vision = getattr(getattr(model, "config", None), "vision_config", None)
        if hasattr(vision, "num_patches"):
            return vision  # it takes patches alone, and ours takes them as well
    return getattr(config, "vision_config", config)


# Not in inference mode: weights that are cast in it can never again be trained.
@torch.no_grad()
def verify(source: Any, target: Any, config) -> dict[str, float]:
    """Run the same random images and texts through two models, in float32.

    Args:
        source, target: the models. Where one is an image tower alone, only those are compared.
        config: our configuration of them, for the shapes.

    Returns:
        The largest difference of each output; of those that are not normalised, as a share of the
        largest.

    Raises:
        ConversionError: a difference is larger than float32 explains.
    """
    images = image_inputs(trial_config(source, target, config))
    with in_float32(source, target):
        if is_tower(source) or is_tower(target):
            before, after = pool(source, images), pool(target, images)
            return compare({name: before[name] for name in before if name in after}, after)
        texts = text_inputs(config.text_config)
        return compare(embed(source, images, texts), embed(target, images, texts))
