"""A picture and a text as the encoders take them, and what they embed to.

Shape legend: `B` pictures or texts, `L` tokens, `P` projection.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageFilter
from torch.nn import functional as F  # noqa: N812
from transformers import BatchFeature

from ..inference.embedding import check_finite
from ..inference.loading import Encoder, TorchEncoder
from ..utils.errors import UserError
from .cells import Cells, patch_cells, pixel_cells
from .words import Span, check_text, find_words, split_words

#: `blank`: what stands for a missing part of a picture.
BLANKS = ("mean", "white", "black", "blur")

#: Cells on a side of a picture, where nothing else is asked for: patches are joined or cut.
FEWEST_CELLS, MOST_CELLS = 6, 16


@dataclass(frozen=True)
class PreparedText:
    """A text as far as the model reads it.

    Args:
        text: the part that is read.
        unread: what the model's maximum length cuts off.
        words: of the part that is read.
        inputs: of the text tower; None for tokenizers without offsets.
    """

    text: str
    unread: str
    words: list[Span]
    inputs: dict[str, torch.Tensor] | None


@dataclass(frozen=True)
class Match:
    """A picture and a text, prepared and embedded.

    Args:
        encoder: what embeds them.
        inputs: of the image tower, for one picture.
        blank_pixels: `pixel_values` of a picture without content.
        cells: of the picture.
        text: the text.
        image_embeds, text_embeds: of unit norm, (1, P), on the CPU.
    """

    encoder: Encoder
    inputs: dict[str, torch.Tensor]
    blank_pixels: torch.Tensor
    cells: Cells
    text: PreparedText
    image_embeds: torch.Tensor
    text_embeds: torch.Tensor

    @property
    def cosine(self) -> float:
        """The cosine similarity of picture and text."""
        return (self.image_embeds @ self.text_embeds.t()).item()

    @property
    def pixels(self) -> torch.Tensor:
        """`pixel_values` of the picture, with its first dimension, 1."""
        return self.inputs["pixel_values"]

    @property
    def model(self) -> Any:
        """The model in torch."""
        assert isinstance(self.encoder, TorchEncoder)
        return self.encoder.model

    def with_pixels(self, pixels: torch.Tensor) -> BatchFeature:
        """The inputs of the image tower with other pixels, (B, …)."""
        inputs = {
            name: value.expand(len(pixels), *value.shape[1:]) for name, value in self.inputs.items()
        }
        return BatchFeature({**inputs, "pixel_values": pixels})

    def cosines_of_pictures(self, pixels: torch.Tensor) -> torch.Tensor:
        """The text's cosines with these pictures, `pixel_values` (B, …): float32 (B,)."""
        embeds = check_finite(self.encoder.encode_inputs(self.with_pixels(pixels)), "pictures")
        return (embeds @ self.text_embeds.t()).squeeze(1)

    def cosines_of_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """The picture's cosines with these texts: float32 (B,); 0 for one without a token."""
        tokenizer = self.encoder.processor.tokenizer
        has_tokens = [bool(text.strip() or tokenizer(text)["input_ids"]) for text in texts]
        encoded = [text for text, has in zip(texts, has_tokens, strict=True) if has]
        embeds = check_finite(self.encoder.encode_text(encoded), "texts")
        result = torch.zeros(len(texts))
        result[has_tokens] = (embeds @ self.image_embeds.t()).squeeze(1)
        return result

    def image_outputs(self, pixels: torch.Tensor, **kwargs: Any) -> Any:
        """What the model makes of pictures, with gradients; `pooler_output` is (B, P)."""
        inputs = self.with_pixels(pixels).to(self.model.device)
        inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        return self.model.get_image_features(**inputs, **kwargs)

    @property
    def text_inputs(self) -> dict[str, torch.Tensor]:
        """The inputs of the text tower, of which the words know their tokens.

        Raises:
            UserError: the tokenizer does not say which tokens a word has.
        """
        if self.text.inputs is None:
            raise UserError(
                "the model's tokenizer does not say where its tokens are in a text: use "
                "words_method='occlusion'"
            )
        return self.text.inputs

    def text_outputs(self, batch: int, **kwargs: Any) -> Any:
        """What the model makes of the text, `batch` times, with gradients."""
        inputs = {
            name: value.expand(batch, -1).to(self.model.device)
            for name, value in self.text_inputs.items()
        }
        return self.model.get_text_features(**inputs, **kwargs)


def cosines(outputs: torch.Tensor, embeds: torch.Tensor) -> torch.Tensor:
    """Cosines of projected outputs (B, P) with an embedding of unit norm (1, P): (B,)."""
    normalised = F.normalize(outputs.float(), dim=-1)
    return (normalised @ embeds.to(outputs.device).t()).squeeze(1)


@contextmanager
def frozen(model: torch.nn.Module) -> Iterator[None]:
    """Gradients reach the inputs of a model and not its weights, which saves their memory."""
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    for weight in learning:
        weight.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        for weight in learning:
            weight.requires_grad_(True)


def prepare(
    encoder: Encoder, image: Image.Image, text: str, grid: int | None = None, blank: str = "mean"
) -> Match:
    """Prepare and embed a picture and a text.

    Args:
        encoder: a checkpoint's or an export's.
        image: an RGB picture of any size.
        text: the text.
        grid: cells along the shorter side of what the model sees; by default those of its patches,
            joined or cut until there are 6 to 16.
        blank: what stands for a missing part, one of `BLANKS`.

    Raises:
        UserError: the text is empty or far too long, or an option has a value that is not allowed.
    """
    check_text(text)
    if blank not in BLANKS:
        raise UserError(f"blank={blank!r} is not allowed: allowed is {', '.join(BLANKS)}")
    prepared_text = prepare_text(encoder, text)
    inputs, blank_inputs = (
        prepare_picture(encoder, one) for one in (image, blank_picture(image, blank))
    )
    return Match(
        encoder,
        inputs,
        blank_inputs["pixel_values"],
        find_cells(encoder, inputs, grid),
        prepared_text,
        # A copy: no gradient passes through what inference mode made.
        check_finite(encoder.encode_inputs(BatchFeature(dict(inputs))), "pictures").clone(),
        check_finite(encoder.encode_text([prepared_text.text]), "texts").clone(),
    )


def prepare_picture(encoder: Encoder, image: Image.Image) -> dict[str, torch.Tensor]:
    """The inputs of the image tower for one picture, without padding."""
    inputs = dict(encoder.processor.image_processor(image, return_tensors="pt"))
    if inputs["pixel_values"].ndim == 3:
        patches = int(inputs["pixel_attention_mask"].sum())
        for name in ("pixel_values", "pixel_attention_mask"):
            inputs[name] = inputs[name][:, :patches]
    return inputs


def blank_picture(image: Image.Image, blank: str) -> Image.Image:
    """A picture of the same size without content, as one of `BLANKS` says."""
    if blank == "blur":
        return image.filter(ImageFilter.GaussianBlur(max(image.size) / 8))
    if blank == "mean":
        mean = image.resize((1, 1), Image.Resampling.BOX).getpixel((0, 0))
        return Image.new("RGB", image.size, mean)
    return Image.new("RGB", image.size, blank)


def prepare_text(encoder: Encoder, text: str) -> PreparedText:
    """Find the part of a text that the model reads, its words and their tokens.

    Raises:
        UserError: the tokenizer makes nothing of the text.
    """
    tokenizer = encoder.processor.tokenizer
    options = encoder.tokenizer_options
    if not tokenizer.is_fast:
        return PreparedText(text, "", split_words(text), None)
    tokens = tokenizer(text, return_offsets_mapping=True, return_tensors="pt", **options)
    offsets = [(start, end) for start, end in tokens.pop("offset_mapping")[0].tolist()]
    words = find_words(text, offsets)
    if not words:
        raise UserError(f"the model's tokenizer finds no word in the text {text!r}")
    end = max(word.end for word in words)
    is_cut = len(find_words(text, whole_offsets(tokenizer, text))) > len(words)
    read = text[:end] if is_cut else text
    return PreparedText(read, text[len(read) :].strip(), words, dict(tokens))


def whole_offsets(tokenizer: Any, text: str) -> list[tuple[int, int]]:
    """The offsets of every token of a text, without a maximum length."""
    return tokenizer(text, return_offsets_mapping=True, verbose=False)["offset_mapping"]


def find_cells(encoder: Encoder, inputs: Mapping[str, torch.Tensor], grid: int | None) -> Cells:
    """The cells of a prepared picture, as `prepare` says.

    Raises:
        UserError: there are more cells than pixels, or a picture of patches has a grid of its own.
    """
    pixels = inputs["pixel_values"]
    if pixels.ndim == 3:
        if grid is not None:
            raise UserError(
                f"grid={grid} is not allowed: this model takes patches of pictures, whose grid is "
                "given"
            )
        rows, columns = inputs["spatial_shapes"][0].tolist()
        return patch_cells(rows, columns)
    height, width = pixels.shape[-2:]
    shorter = min(height, width)
    if grid is None:
        grid = default_grid(shorter, patch_size_of(encoder))
    if not 1 <= grid <= shorter:
        raise UserError(
            f"grid={grid} is not allowed: the model sees {height} x {width} pixels, so 1 to "
            f"{shorter} are"
        )
    return pixel_cells(height, width, round(grid * height / shorter), round(grid * width / shorter))


def default_grid(side: int, patch_size: int | None) -> int:
    """Cells along a side of pixels: the patches, cut or joined until there are 6 to 16."""
    count = max(1, round(side / patch_size)) if patch_size else FEWEST_CELLS
    while count < FEWEST_CELLS:
        count *= 2
    while count > MOST_CELLS:
        divisor = next((d for d in (2, 3, 5, 7) if count % d == 0), None)
        count = count // divisor if divisor else MOST_CELLS
    return min(count, side)


def patch_size_of(encoder: Encoder) -> int | None:
    """The side of the model's patches in pixels, or None where nothing says it."""
    if isinstance(encoder, TorchEncoder):
        size = getattr(encoder.model.config.vision_config, "patch_size", None)
    else:
        size = encoder.manifest.get("patch_size")
    return size if isinstance(size, int) and size > 0 else None
