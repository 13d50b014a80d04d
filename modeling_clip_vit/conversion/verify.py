"""Check that a converted model computes what its source does."""

from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import PreTrainedModel

from .weights import ConversionError

#: Largest difference of a normalised embedding, and of logits as a share of the largest logit.
TOLERANCE = 1e-5


def embed(model: Any, images: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
    """Normalised embeddings and logits of a joint model of ours, Transformers or open_clip."""
    if isinstance(model, PreTrainedModel):
        outputs = model(pixel_values=images, input_ids=ids)
        return {
            "image_embeds": outputs.image_embeds,
            "text_embeds": outputs.text_embeds,
            "logits": outputs.logits_per_image,
        }
    image_embeds = normalize(model.encode_image(images), dim=-1)
    text_embeds = normalize(model.encode_text(ids), dim=-1)
    logits = model.logit_scale.exp() * image_embeds @ text_embeds.t()
    bias = getattr(model, "logit_bias", None)
    return {
        "image_embeds": image_embeds,
        "text_embeds": text_embeds,
        "logits": logits if bias is None else logits + bias,
    }


@torch.inference_mode()
def verify(source: Any, target: Any, config) -> dict[str, float]:
    """Run the same random images and texts through two models, in float32.

    Args:
        source, target: the models.
        config: our configuration of them, for the shapes.

    Returns:
        The largest difference of each output; of logits, as a share of the largest.

    Raises:
        ConversionError: a difference is larger than float32 explains.
    """
    generator = torch.Generator().manual_seed(0)
    vision, text = config.vision_config, config.text_config
    size = vision.image_size
    images = torch.randn(4, vision.num_channels, size, size, generator=generator)
    shape = (4, text.max_position_embeddings)
    ids = torch.randint(0, text.vocab_size - 1, shape, generator=generator)
    if text.eos_token_id is not None:
        ids[ids == text.eos_token_id] = 0
        ids[:, -1] = text.eos_token_id
    before, after = (embed(model.float().eval(), images, ids) for model in (source, target))
    differences = {}
    for name, expected in before.items():
        scale = float(expected.abs().max()) if name == "logits" else 1.0
        differences[name] = float((after[name] - expected).abs().max()) / scale
    wrong = {name: value for name, value in differences.items() if not value <= TOLERANCE}
    if wrong:
        listed = ", ".join(f"{name} by {value:.1e}" for name, value in wrong.items())
        raise ConversionError(
            f"the converted model differs in {listed} (at most {TOLERANCE:.0e} is allowed), so "
            "nothing was written"
        )
    return differences
