"""Which rows make a batch, and from samples to the batches that a training step takes.

Shape legend: `B` samples, `T` texts, `L` tokens, `S` side in pixels.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Sampler
from transformers import PreTrainedTokenizerBase

from ..utils.errors import UserError
from .mixing import mix_seed
from .packing import plan_for_mask
from .rows import Sample, SkippedSample
from .transforms import AugmentOptions, augment, normalize

#: Numbers that are augmented at once: 4 MB of float32 on a CPU, 1 GB elsewhere.
CHUNK_SIZE = 1 << 20
LARGE_CHUNK_SIZE = 1 << 28
#: Texts whose token ids a loader's worker keeps: some tens of megabytes.
MOST_KEPT_TEXTS = 1 << 16
#: Offset for the repeated draws of a row in an epoch: larger than any epoch number.
MOST_EPOCHS = 1_000_000


def number_concepts(keys: Sequence[Hashable]) -> list[int]:
    """Number the distinct keys in the order in which they come."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(key, len(numbers)) for key in keys]


class ConceptBatchSampler(Sampler[list[tuple[int, ...]]]):
    """Batches of concepts, each with the same number of its images.

    An epoch visits every concept once, in a new order. If a concept has more images than needed,
    some are drawn; if it has fewer, they repeat, each time with new augmentation (Hoffer et al.,
    2020, section 3). Image k of every concept comes before image k + 1 of any, so a batch consists
    of `images_per_concept` views of the same concepts. The last, incomplete batch is dropped.

    Args:
        concepts: concept number of each usable row.
        batch_size: images a batch, a multiple of images_per_concept.
        images_per_concept: images of each concept in a batch.
        seed: of the order.

    Raises:
        UserError: the batch is larger than the dataset.
    """

    def __init__(
        self, concepts: dict[int, int], batch_size: int, images_per_concept: int, seed: int
    ):
        self.rows: dict[int, list[int]] = defaultdict(list)
        for row, concept in concepts.items():
            self.rows[concept].append(row)
        self.batch_size: int | None = batch_size
        self.images_per_concept = images_per_concept
        self.concepts_per_batch = batch_size // images_per_concept
        self.seed = seed
        self.epoch = 0
        if len(self) == 0:
            raise UserError(
                f"a batch of {batch_size} images takes {self.concepts_per_batch} concepts, but "
                f"the dataset has {len(self.rows)}: use a smaller per_device_train_batch_size"
            )

    def set_epoch(self, epoch: int):
        """Choose the order; every epoch has its own."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.rows) // self.concepts_per_batch

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        order = rng.permutation(sorted(self.rows))
        for start in range(0, len(self) * self.concepts_per_batch, self.concepts_per_batch):
            views = [
                self.draw_rows(concept, rng)
                for concept in order[start : start + self.concepts_per_batch]
            ]
            yield self.number_draws([row for view in zip(*views, strict=True) for row in view])

    def number_draws(self, rows: list[int]) -> list[tuple[int, ...]]:
        """Indices (row, draw) of the rows of a batch; a row that repeats gets a new draw number."""
        seen: Counter[int] = Counter()
        indices: list[tuple[int, ...]] = []
        for row in rows:
            indices.append((row, self.epoch + seen[row] * MOST_EPOCHS))
            seen[row] += 1
        return indices

    def draw_rows(self, concept: int, rng: np.random.Generator) -> list[int]:
        """Draw as many rows of a concept as a batch needs, in random order."""
        rows, wanted = self.rows[concept], self.images_per_concept
        return [rows[i] for i in np.resize(rng.permutation(len(rows)), wanted)]


class TokenIds:
    """Texts to padded token ids, as their tokenizer makes them.

    Captions come again, epoch after epoch and around every image of a class, and a dictionary finds
    their ids ten times faster than a tokenizer does. It is emptied when it has grown too large.

    Args:
        tokenizer: of the texts.
        most_kept: texts in memory, at most.
        pad_multiple: the padded length is a multiple of this, unless that is longer than a text may
            be.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        most_kept: int = MOST_KEPT_TEXTS,
        pad_multiple: int = 1,
    ):
        self.tokenizer = tokenizer
        self.most_kept, self.pad_multiple = most_kept, pad_multiple
        self.kept: dict[str, torch.Tensor] = {}

    def __call__(self, texts: list[str]) -> dict[str, torch.Tensor]:
        """`input_ids` and `attention_mask`, (T, L), padded to the longest text or further."""
        if len(self.kept) + len(texts) > self.most_kept:
            self.kept.clear()
        new = [text for text in dict.fromkeys(texts) if text not in self.kept]
        if new:
            rows = self.tokenizer(new, truncation=True)["input_ids"]
            self.kept.update(
                (text, torch.tensor(row).long()) for text, row in zip(new, rows, strict=True)
            )
        ids = [self.kept[text] for text in texts]
        return {
            "input_ids": self.pad(ids, self.tokenizer.pad_token_id),
            "attention_mask": self.pad([torch.ones_like(row) for row in ids], 0),
        }

    def pad(self, rows: list[torch.Tensor], value: int) -> torch.Tensor:
        """Rows of numbers of several lengths as one tensor, (T, L)."""
        side = self.tokenizer.padding_side
        padded = pad_sequence(rows, True, value, side)
        longest = padded.shape[1]
        length = math.ceil(longest / self.pad_multiple) * self.pad_multiple
        count = max(0, min(length, self.tokenizer.model_max_length) - longest)
        return nn.functional.pad(padded, (count, 0) if side == "left" else (0, count), value=value)


class Collator:
    """Samples to a batch: augmented, normalised pixels and padded token ids.

    The texts of one concept in a batch are drawn once, from its first image.

    With `leaves_pixels`, an accelerator augments the images: a quarter of the bytes travels, and
    the CPU's cores are spared. Batches then have `pixels` (B, 3, S, S), uint8, and the `noise` of
    each image in place of `pixel_values`, and `finish` makes these on the device.

    Args:
        tokenizer: of the texts; None where concepts are classes and there are no texts.
        options: of the augmentation.
        image_mean, image_std: of the normalisation, one number a channel.
        pad_multiple: the padded length of texts is a multiple of this many tokens.
    """

    leaves_pixels = False
    #: Whether batches say which texts share a row, where that saves computing.
    packs_texts = False

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | None,
        options: AugmentOptions,
        image_mean: list[float],
        image_std: list[float],
        pad_multiple: int = 1,
    ):
        self.token_ids: TokenIds | None = None
        if tokenizer is not None:
            self.token_ids = TokenIds(tokenizer, pad_multiple=pad_multiple)
        self.options = options
        self.image_mean = image_mean
        self.image_std = image_std

    def __call__(self, samples: list[Sample | SkippedSample]) -> dict:
        """Collate.

        Returns:
            `pixel_values` (B, 3, S, S), `input_ids` and `attention_mask` (T, L), the concept of
            each image `image_ids` (B,) and of each text `text_ids` (T,), the places of the images
            that are the first of their concept `first_views` and of all others `other_views`,
            `mix_seed`, a seed for mixing that depends on these samples alone, and `skipped`, the
            samples without a readable image. Without a tokenizer, the class of each image `labels`
            (B,) in place of texts. `has_padding` says whether texts differ in length. With
            `packs_texts`, the `packed_places` of the texts.
        """
        skipped = [sample for sample in samples if isinstance(sample, SkippedSample)]
        kept = [sample for sample in samples if isinstance(sample, Sample)]
        if not kept:
            return {"skipped": skipped}
        first_of: dict[int, Sample] = {}
        for sample in kept:
            first_of.setdefault(sample.concept, sample)
        batch = {
            **self.collate_images(kept),
            **self.collate_texts(first_of),
            "image_ids": torch.tensor([sample.concept for sample in kept]),
            **split_views([first_of[sample.concept] is sample for sample in kept]),
            "mix_seed": mix_seed([sample.seed for sample in kept]),
            "skipped": skipped,
        }
        return batch if self.token_ids is not None else {**batch, "labels": batch["image_ids"]}

    def collate_images(self, samples: list[Sample]) -> dict[str, torch.Tensor]:
        """The pixels of each image, or what models made of it beforehand, or both."""
        names = samples[0].image_features
        images = {
            name: torch.stack([sample.image_features[name] for sample in samples]) for name in names
        }
        if samples[0].pixels is None:
            return images
        if not self.leaves_pixels:
            return {**images, "pixel_values": self.make_pixel_values(samples)}
        pixels, noise = zip(*drawn_pixels(samples), strict=True)
        return {**images, "pixels": torch.stack(pixels), "noise": torch.stack(noise)}

    def collate_texts(self, first_of: dict[int, Sample]) -> dict[str, torch.Tensor | bool]:
        """The texts of each concept, from its first image; or what models made of them, or both."""
        if self.token_ids is None:
            return {}
        firsts = list(first_of.values())
        text_ids = [sample.concept for sample in firsts for _ in range(sample.num_texts)]
        texts = [text for sample in firsts for text in sample.texts]
        batch: dict = self.token_ids(texts) if texts else {}
        if texts:
            # Asked on the CPU: reading the answer from an accelerator would wait for it.
            batch["has_padding"] = not bool(batch["attention_mask"].all())
        if texts and self.packs_texts:
            places = plan_for_mask(batch["attention_mask"])
            if places is not None:
                batch["packed_places"] = places
        for name in firsts[0].text_features:
            batch[name] = torch.cat([sample.text_features[name] for sample in firsts])
        return {**batch, "text_ids": torch.tensor(text_ids)}

    def make_pixel_values(self, samples: list[Sample]) -> torch.Tensor:
        """Augmented and normalised pixels, float32 (B, 3, S, S).

        A few images at a time: what stays in the processor's cache costs half as much.
        """
        pixels, noise = zip(*drawn_pixels(samples), strict=True)
        return self.vary(pixels, noise)

    def vary(
        self,
        pixels: Sequence[torch.Tensor] | torch.Tensor,
        noise: Sequence[torch.Tensor] | torch.Tensor,
    ) -> torch.Tensor:
        """Augment and normalise images on their device: uint8 pixels to float32, (B, 3, S, S)."""
        shape, device = pixels[0].shape, pixels[0].device
        values = torch.empty(len(pixels), *shape, device=device)
        chunk_size = CHUNK_SIZE if device.type == "cpu" else LARGE_CHUNK_SIZE
        count = max(1, chunk_size // shape.numel())
        for start in range(0, len(pixels), count):
            chunk = slice(start, start + count)
            images = augment(as_batch(pixels[chunk]), as_batch(noise[chunk]), self.options)
            values[chunk] = normalize(images, self.image_mean, self.image_std)
        return values

    def finish(self, batch: dict) -> dict:
        """A batch whose pixels were left as they are, with `pixel_values`; others as they are."""
        if "pixels" not in batch:
            return batch
        left = ("pixels", "noise")
        finished = {name: value for name, value in batch.items() if name not in left}
        return {**finished, "pixel_values": self.vary(batch["pixels"], batch["noise"])}


def split_views(are_first: list[bool]) -> dict[str, torch.Tensor]:
    """The places of the images that are the first of their concept, and those of all others.

    A mask would say the same, but a GPU that chooses by a mask is waited for.
    """
    views = {"first_views": True, "other_views": False}
    return {
        name: torch.tensor(
            [place for place, is_first in enumerate(are_first) if is_first == wanted],
            dtype=torch.int64,
        )
        for name, wanted in views.items()
    }


def drawn_pixels(samples: list[Sample]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The pixels and the noise of each sample."""
    return [
        (sample.pixels, sample.noise)
        for sample in samples
        if sample.pixels is not None and sample.noise is not None
    ]


def as_batch(values: Sequence[torch.Tensor] | torch.Tensor) -> torch.Tensor:
    """Values of several images in one tensor."""
    return values if isinstance(values, torch.Tensor) else torch.stack(list(values))
