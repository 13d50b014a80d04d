"""The images of a split as an encoder embeds them: decoded once, or anew each time.

Shape legend: `N` images, `P` projection, `S` side in pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms.v2.functional import to_pil_image
from transformers import BatchFeature

from ..data.decoding import BadImageError, decode_image
from ..data.errors import DataError
from ..data.images import decode_all, decode_each, image_name, to_pixels
from ..data.native import fit_image
from ..data.rows import BadSamples
from ..inference.classifier import TorchClassifier
from ..inference.embedding import check_finite, embed_batches
from ..inference.loading import Encoder
from .corruptions import Corruption
from .sharing import RowSharing, SharedEncoder


@dataclass(frozen=True)
class ImageRows:
    """The rows of a split whose images are evaluated.

    Args:
        split: the rows; images still encoded.
        column: column with the images.
        path: name of the dataset in messages.
        problems: row -> what is wrong with it besides its image.
        max_bad_sample_ratio: the largest acceptable share of bad rows.
    """

    split: Dataset
    column: str
    path: str
    problems: Mapping[int, str] = field(default_factory=dict)
    max_bad_sample_ratio: float = 0.0


@dataclass
class EmbeddedImages:
    """The images of a split, embedded.

    Args:
        embeds: embeddings with unit norm, (N, P); of a classifier, logits.
        rows: the row of each image.
        bad: the rows that could not be used.
    """

    embeds: torch.Tensor
    rows: list[int]
    bad: BadSamples


class SplitImages(Protocol):
    """The images of a split."""

    def embed(self, encoder: SharedEncoder, corruption: Corruption | None = None) -> EmbeddedImages:
        """Embed them, corrupted where a corruption is given."""


#: Opens the images of a split.
OpenImages = Callable[[ImageRows], SplitImages]


class ImagesInMemory:
    """The images of a split in memory, for a model that is evaluated again and again.

    Args:
        source: the rows.
        size: side S of the decoded images.

    Raises:
        DataError: more rows are bad than `max_bad_sample_ratio` allows, or all are.
    """

    def __init__(self, source: ImageRows, size: int):
        self.bad = BadSamples(source.max_bad_sample_ratio)
        self.pixels: Sequence[torch.Tensor] | torch.Tensor
        self.pixels, self.rows = decode_all(
            source.split, source.column, size, source.path, self.bad, source.problems
        )

    def embed(self, encoder: SharedEncoder, corruption: Corruption | None = None) -> EmbeddedImages:
        """Embed the decoded images."""
        share = encoder.sharing.rows(len(self.pixels))
        pixels = self.pixels
        if share != list(range(len(self.pixels))):
            pixels = [self.pixels[place] for place in share]
        if corruption is not None:
            pixels = list(map(corruption, pixels, (self.rows[place] for place in share)))
        embeds = encoder.sharing.collect(self.encode(encoder.encoder, pixels), len(self.pixels))
        return EmbeddedImages(check_finite(embeds, "images"), self.rows, self.bad)

    def encode(
        self, encoder: Encoder | TorchClassifier, pixels: Sequence[torch.Tensor] | torch.Tensor
    ) -> torch.Tensor:
        """Embed some of the decoded images: (N, P)."""
        if not isinstance(pixels, torch.Tensor):
            pixels = torch.stack(list(pixels))
        return encoder.encode_pixels(pixels)


class NativeImagesInMemory(ImagesInMemory):
    """The images of a split in memory in their own aspect ratio, resized to grids of patches.

    Args:
        source: the rows.
        patch_size: side of a patch in pixels.
        max_patches: most patches of an image; that of the model's processor.

    Raises:
        DataError: more rows are bad than `max_bad_sample_ratio` allows, or all are.
    """

    def __init__(self, source: ImageRows, patch_size: int, max_patches: int):
        self.bad = BadSamples(source.max_bad_sample_ratio)
        self.pixels, self.rows = decode_each(
            source.split,
            source.column,
            lambda image: fit_image(image, patch_size, max_patches),
            source.path,
            self.bad,
            source.problems,
        )

    def encode(
        self, encoder: Encoder | TorchClassifier, pixels: Sequence[torch.Tensor] | torch.Tensor
    ) -> torch.Tensor:
        """Embed some of the decoded images as patches: (N, P)."""
        processor: Any = encoder.processor
        prepare = getattr(processor, "image_processor", processor)

        def embed(batch: list[torch.Tensor]) -> torch.Tensor:
            return encoder.encode_inputs(prepare(batch, do_resize=False, return_tensors="pt"))

        return embed_batches(embed, list(pixels), 64, self.pixels[0])


class ImagesOnDisk:
    """The images of a split, decoded batch by batch each time they are embedded.

    Memory holds embeddings and a few batches, not images. Each image is prepared by the model's own
    processor.

    Args:
        source: the rows.
    """

    def __init__(self, source: ImageRows):
        self.source = source

    def embed(self, encoder: SharedEncoder, corruption: Corruption | None = None) -> EmbeddedImages:
        """Decode and embed the images.

        Raises:
            DataError: more rows are bad than `max_bad_sample_ratio` allows, or all are.
        """
        source, count = self.source, len(self.source.split)
        size = encoder.encoder.image_size if corruption is not None else 0
        processor: Any = encoder.encoder.processor
        loader = DataLoader(
            DecodedImages(source, corruption, size),
            batch_size=encoder.batch_size,
            sampler=encoder.sharing.rows(count),
            num_workers=encoder.num_workers,
            collate_fn=InputCollator(getattr(processor, "image_processor", processor)),
        )
        parts: list[torch.Tensor] = []
        is_usable: list[bool] = []
        named: list[tuple[str, str]] = []
        for inputs, is_decoded, undecodable in loader:
            if inputs is not None:
                parts.append(encoder.encoder.encode_inputs(inputs))
            is_usable += is_decoded
            named += undecodable
        bad = BadSamples(source.max_bad_sample_ratio, seen=count)
        for name, reason in sorted(set(encoder.sharing.collect_objects(named))):
            bad.add(name, reason)
        bad.check(source.path)
        usable = torch.tensor(is_usable)
        collected = encoder.sharing.collect(usable[:, None].float(), count)
        kept = collected[:, 0].nonzero().flatten()
        if len(kept) == 0:
            raise DataError(f"no row of {source.path!r} can be used; the first: {bad.examples[0]}")
        embeds = spread(parts, usable, encoder.sharing)
        embeds = encoder.sharing.collect(embeds, count)[kept]
        return EmbeddedImages(check_finite(embeds, "images"), kept.tolist(), bad)


def spread(parts: list[torch.Tensor], usable: torch.Tensor, sharing: RowSharing) -> torch.Tensor:
    """The embeddings of this process with a row of zeros for each image that it could not use.

    A process without a usable image learns the width from the others.
    """
    width = max(sharing.collect_objects([part.shape[1] for part in parts[:1]]))
    embeds = torch.zeros(len(usable), width)
    if parts:
        embeds[usable] = torch.cat(parts)
    return embeds


class DecodedImages(TorchDataset):
    """Images by row, decoded when they are read; an undecodable one is its name and the reason.

    Args:
        source: the rows.
        corruption: corrupts the square crop of each image; None leaves the whole image as it is.
        size: side S of that crop.
    """

    def __init__(self, source: ImageRows, corruption: Corruption | None, size: int):
        self.split = source.split.select_columns([source.column])
        self.column, self.problems = source.column, source.problems
        self.corruption, self.size = corruption, size

    def __getitem__(self, row: int) -> Image.Image | tuple[str, str]:
        source = self.split[row][self.column]
        if row in self.problems:
            return image_name(source, row), self.problems[row]
        try:
            image = decode_image(source)
        except BadImageError as error:
            return image_name(source, row), str(error)
        if self.corruption is None:
            return image
        return to_pil_image(self.corruption(to_pixels(image, self.size), row))


class InputCollator:
    """Makes a model's inputs of a batch, in the loader's workers.

    Returns:
        The inputs; which images of the batch they are; and name and reason of each other one.
    """

    def __init__(self, image_processor: Any):
        self.image_processor = image_processor

    def __call__(
        self, images: list
    ) -> tuple[BatchFeature | None, list[bool], list[tuple[str, str]]]:
        is_decoded = [isinstance(image, Image.Image) for image in images]
        decoded = [image for image in images if isinstance(image, Image.Image)]
        inputs = self.image_processor(decoded, return_tensors="pt") if decoded else None
        return inputs, is_decoded, [i for i in images if not isinstance(i, Image.Image)]
