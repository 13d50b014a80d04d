"""What is exported of a CLIP: plain modules with tensors in and normalised embeddings out.

Shape legend: `B` batch, `L` tokens or patches, `S` side in pixels, `P` projection, `D` numbers of a
patch.
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import Dim
from torch.nn.functional import normalize

from ..configuration_clip_vit import is_foreign
from ..data.grids import fit_size
from ..data.native import cut_patches, pad_patches
from ..inference.embedding import longest_text, reads_padding, similarity_of
from ..runtimes.runtime import IMAGE_INPUTS
from ..utils.errors import UserError

#: Bound of a dynamic batch: torch.export wants one, and no artifact enforces it.
LARGEST_BATCH = 65536


def leave_out(model: Any, *names: str) -> Any:
    """A model that shares everything with this one except for some modules, which it lacks."""
    rest = copy.copy(model)
    rest._modules = {name: part for name, part in model._modules.items() if name not in names}
    return rest


class ImagePart(nn.Module):
    """The image tower: pixel_values (B, 3, S, S) to image_embeds (B, P) of length 1, float32.

    In their own aspect ratio, images are patches (B, L, D) with a mask (B, L) and shapes (B, 2).
    """

    def __init__(self, model: Any):
        super().__init__()
        self.model = leave_out(model, "text_model", "text_projection")

    def forward(
        self,
        pixel_values: torch.Tensor,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Embed images; `pixel_values` is float32 whatever the precision of the weights."""
        inputs: dict[str, Any] = {"pixel_values": pixel_values.to(dtype_of(self.model))}
        if spatial_shapes is not None:
            inputs["pixel_attention_mask"] = pixel_attention_mask
            inputs["spatial_shapes"] = spatial_shapes
        outputs = self.model.get_image_features(**inputs)
        return {"image_embeds": normalize(outputs.pooler_output.float(), dim=-1)}


class TextPart(nn.Module):
    """The text tower: input_ids and attention_mask (B, L) to text_embeds (B, P), float32."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = leave_out(model, "vision_model", "visual_projection")

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Embed texts; a model whose tokenizer makes no mask (SigLIP) is exported without one."""
        outputs = self.model.get_text_features(input_ids=input_ids, attention_mask=attention_mask)
        return {"text_embeds": normalize(outputs.pooler_output.float(), dim=-1)}


class JointPart(nn.Module):
    """Both towers: the embeddings of images and texts, and logits_per_image (B_image, B_text)."""

    def __init__(self, model: Any):
        super().__init__()
        self.image = ImagePart(model)
        self.text = TextPart(model)
        scale, bias = similarity_of(model)
        self.scale, self.bias = scale, bias

    def forward(
        self,
        pixel_values: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Embed any number of images and texts, and compare each image with each text."""
        images = pixel_values, pixel_attention_mask, spatial_shapes
        image_BP = self.image(*images)["image_embeds"]
        text_BP = self.text(input_ids, attention_mask)["text_embeds"]
        logits_BB = self.scale * image_BP @ text_BP.t() + (self.bias or 0.0)
        return {"image_embeds": image_BP, "text_embeds": text_BP, "logits_per_image": logits_BB}


def dtype_of(model: nn.Module) -> torch.dtype:
    """The precision of a model's weights."""
    return next(model.parameters()).dtype


@dataclass(frozen=True)
class Shapes:
    """The sizes of a CLIP that its inputs must have.

    Args:
        image_size: S, in pixels.
        num_channels: of an image.
        max_text_length: most tokens of a text.
        vocab_size: token ids are below it.
        eos_token_id: the token that ends a text, or None.
        has_mask: whether texts come with an attention mask.
        patch_size: side of a patch of images in their own aspect ratio, in pixels; 0 for squares.
        max_patches: most patches of such an image.
    """

    image_size: int
    num_channels: int
    max_text_length: int
    vocab_size: int
    eos_token_id: int | None
    has_mask: bool
    patch_size: int = 0
    max_patches: int = 0

    @property
    def image_inputs(self) -> tuple[str, ...]:
        """Names of the inputs of the image tower."""
        return IMAGE_INPUTS if self.max_patches else IMAGE_INPUTS[:1]


def shapes_of(model: Any, processor: Any) -> Shapes:
    """The sizes of a CLIP of ours or of Transformers with its processor.

    Raises:
        UserError: nothing says how long a text may be, or the image tower makes patches of images
            in a way that no tracer follows.
    """
    vision, text = model.config.vision_config, model.config.text_config
    images = processor.image_processor
    max_patches = getattr(images, "max_num_patches", 0)
    if max_patches and is_foreign(vision):
        raise UserError(
            f"an image tower of type {vision.model_type!r} cannot be exported: it interpolates its "
            "positions image by image, which no graph does"
        )
    max_text_length = longest_text(text, processor.tokenizer)
    if max_text_length is None:
        raise UserError(
            "neither the text tower nor its tokenizer says how many tokens a text may have: set "
            "the tokenizer's model_max_length"
        )
    return Shapes(
        image_size=vision.image_size,
        num_channels=vision.num_channels,
        max_text_length=max_text_length,
        vocab_size=text.vocab_size,
        eos_token_id=getattr(text, "eos_token_id", None),
        has_mask=not reads_padding(model.config.model_type, processor.tokenizer),
        patch_size=images.patch_size if max_patches else 0,
        max_patches=max_patches,
    )


#: The parts that can be exported: which module, and what it is given.
PARTS: dict[str, tuple[Callable[[Any], nn.Module], tuple[str, ...]]] = {
    "image": (ImagePart, ("image",)),
    "text": (TextPart, ("text",)),
    "joint": (JointPart, ("image", "text")),
}


def make_images(shapes: Shapes, count: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """Random normalised pixels: smooth ones, as pictures are, with some noise.

    In their own aspect ratio, images are wide, high and square in turns.
    """
    generator = torch.Generator().manual_seed(seed)
    side, patch = shapes.image_size, shapes.patch_size

    def draw(number: int, height: int, width: int) -> torch.Tensor:
        coarse = torch.randn(number, shapes.num_channels, 5, 5, generator=generator)
        smooth = nn.functional.interpolate(coarse, (height, width), mode="bicubic")
        return smooth + 0.2 * torch.randn(smooth.shape, generator=generator)

    if not shapes.max_patches:
        return {"pixel_values": draw(count, side, side)}
    ratios = ((1, 3), (2, 1), (1, 1), (5, 7))
    sizes = [
        fit_size(*ratios[(seed + place) % 4], patch, shapes.max_patches) for place in range(count)
    ]
    return pad_patches(
        [cut_patches(draw(1, *size), patch)[0] for size in sizes], torch.tensor(sizes) // patch
    )


def make_texts(
    shapes: Shapes, count: int, length: int, padded: bool, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random texts of at most `length` tokens; `padded` gives each its own length."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, shapes.vocab_size, (count, length), generator=generator)
    mask = torch.ones(count, length, dtype=torch.long)
    if padded:
        lengths = torch.randint(1, length + 1, (count,), generator=generator)
        lengths[0] = length
        mask = (torch.arange(length) < lengths.unsqueeze(1)).long()
    eos = shapes.eos_token_id
    if eos is not None:
        ids[ids == eos] = (eos + 1) % shapes.vocab_size
        ids[torch.arange(count), mask.sum(1) - 1] = eos
    inputs = {"input_ids": ids, "attention_mask": mask}
    return inputs if shapes.has_mask else {"input_ids": ids}


def example_inputs(
    shapes: Shapes, kinds: tuple[str, ...], is_static: bool = False
) -> dict[str, torch.Tensor]:
    """Inputs to trace a part with; the batch is 1 only if static: tracers treat a 1 as fixed."""
    inputs: dict[str, torch.Tensor] = {}
    if "image" in kinds:
        inputs |= make_images(shapes, 1 if is_static else 2)
    if "text" in kinds:
        inputs |= make_texts(shapes, 3, min(6, shapes.max_text_length), padded=True)
    return inputs


def dynamic_shapes(shapes: Shapes, inputs: dict[str, torch.Tensor]) -> dict[str, dict[int, Any]]:
    """The dynamic dimensions of the inputs: both batches, the length of texts, and of patches."""
    image_batch = Dim("image_batch", min=1, max=LARGEST_BATCH)
    text_batch = Dim("text_batch", min=1, max=LARGEST_BATCH)
    length = Dim("text_length", min=1, max=shapes.max_text_length)
    of_images = {0: image_batch}
    of_patches = {0: image_batch, 1: Dim("num_patches", min=1, max=max(2, shapes.max_patches))}
    dimensions = {
        "pixel_values": of_patches if shapes.max_patches else of_images,
        "pixel_attention_mask": of_patches,
        "spatial_shapes": of_images,
    }
    return {name: dimensions.get(name, {0: text_batch, 1: length}) for name in inputs}
