"""Embed the rows of a split: read batch by batch, shared out over processes.

Shape legend: `N` rows, `P` projection.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from accelerate import PartialState
from accelerate.utils import gather, gather_object
from datasets import Dataset
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision.transforms.v2.functional import to_pil_image
from transformers import BatchFeature

from ..data.errors import DataError
from ..data.images import BadImageError, BadSamples, decode_image, image_name, to_pixels
from ..inference.embedding import check_finite
from ..inference.loading import Encoder, TorchEncoder
from .corruptions import corrupt


def own_rows(count: int) -> list[int]:
    """The rows of this process, dealt in turn: each process gets the same number, and the first
    rows repeat if they do not divide evenly.
    """
    state = PartialState()
    rounds = -(-count // state.num_processes)
    places = range(state.process_index, rounds * state.num_processes, state.num_processes)
    return [place % count for place in places]


def gather_rows(own: torch.Tensor, count: int) -> torch.Tensor:
    """All-gather the values that each process has for its `own_rows`: all rows in order, (N, P)."""
    state = PartialState()
    shares = gather(own.to(state.device)).cpu().unflatten(0, (state.num_processes, -1))
    return shares.transpose(0, 1).flatten(0, 1)[:count]


@dataclass
class Damage:
    """What is done to the images before they are embedded.

    Args:
        corruption: of `CORRUPTIONS`; None for nothing but the same crop.
        severity: from 1 to 5.
        seed: of noise.
        size: side of the square that is cut out of an image before.
    """

    corruption: str | None
    severity: int
    seed: int
    size: int

    def __call__(self, image: Image.Image, row: int) -> Image.Image:
        pixels = to_pixels(image, self.size)
        if self.corruption is not None:
            pixels = corrupt(pixels, self.corruption, self.severity, self.seed, row)
        return to_pil_image(pixels)


class RowImages(TorchDataset):
    """Images by row, decoded when they are read; an undecodable one is its name and the reason."""

    def __init__(
        self,
        split: Dataset,
        column: str,
        damage: Damage | None,
        problems: Mapping[int, str] | None = None,
    ):
        self.split = split.select_columns([column])
        self.column, self.damage, self.problems = column, damage, problems or {}

    def __getitem__(self, row: int) -> Image.Image | tuple[str, str]:
        source = self.split[row][self.column]
        if row in self.problems:
            return image_name(source, row), self.problems[row]
        try:
            image = decode_image(source)
        except BadImageError as error:
            return image_name(source, row), str(error)
        return image if self.damage is None else self.damage(image, row)


class Preparation:
    """Makes a model's inputs of a batch, in the loader's workers.

    Returns:
        The inputs, which of the batch they are, and the name of each other one with the reason.
    """

    def __init__(self, image_processor):
        self.image_processor = image_processor

    def __call__(self, images: list) -> tuple[BatchFeature | None, list[bool], list]:
        is_good = [isinstance(image, Image.Image) for image in images]
        good = [image for image in images if isinstance(image, Image.Image)]
        inputs = self.image_processor(good, return_tensors="pt") if good else None
        return inputs, is_good, [image for image in images if not isinstance(image, Image.Image)]


class Embedder:
    """Embeds images and texts, in all processes together.

    Args:
        encoder: a CLIP, which goes to the device of this process, or an export of one.
        batch_size: images or texts at a time in each process.
        num_workers: processes that decode for each process; 0 decodes in itself.
    """

    def __init__(self, encoder: Encoder, batch_size: int, num_workers: int):
        if isinstance(encoder, TorchEncoder):
            encoder.model.to(PartialState().device)
        self.encoder = encoder
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.width = encoder.encode_text(["a"]).shape[1]

    def embed_texts(self, texts: Sequence[str]) -> torch.Tensor:
        """Texts, (N, P) of length 1."""
        own = [texts[place] for place in own_rows(len(texts))]
        embeds = self.encoder.encode_text(own, self.batch_size)
        return check_finite(gather_rows(embeds, len(texts)), "texts")

    def embed_rows(
        self,
        split: Dataset,
        column: str,
        path: str,
        max_bad_sample_ratio: float,
        damage: Damage | None = None,
        problems: Mapping[int, str] | None = None,
    ) -> tuple[torch.Tensor, list[int], BadSamples]:
        """The images of a split. Memory holds embeddings and a few batches, not images.

        Args:
            split: the rows.
            column: of the images.
            path: name of the dataset in messages.
            max_bad_sample_ratio: the share of bad rows to put up with.
            damage: what is done to the images before they are embedded.
            problems: row -> what is wrong with it, other than its image.

        Returns:
            Embeddings (N, P) of length 1; the row of each; and what could not be decoded.

        Raises:
            DataError: more images are bad than `max_bad_sample_ratio` allows, or all are.
        """
        rows = own_rows(len(split))
        loader = DataLoader(
            RowImages(split, column, damage, problems),
            batch_size=self.batch_size,
            sampler=rows,
            num_workers=self.num_workers,
            collate_fn=Preparation(self.encoder.processor.image_processor),
        )
        # The last column says whether the image could be decoded.
        own, place, named = torch.zeros(len(rows), self.width + 1), 0, []
        for inputs, is_good, bad_ones in loader:
            good = place + torch.tensor(is_good).nonzero().flatten()
            if inputs is not None:
                own[good, :-1] = self.encoder.encode_inputs(inputs)
                own[good, -1] = 1
            named += bad_ones
            place += len(is_good)
        everything = gather_rows(own, len(split))
        kept = everything[:, -1].nonzero().flatten()
        bad = BadSamples(max_bad_sample_ratio, seen=len(split))
        for name, reason in sorted(set(gather_object(named))):
            bad.add(name, reason)
        bad.check(path)
        if len(kept) == 0:
            raise DataError(f"no row of {path!r} can be used; the first: {bad.examples[0]}")
        return check_finite(everything[kept, :-1], "images"), kept.tolist(), bad
