"""The batches of a run."""

import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from ..data.batches import Collator, ConceptBatchSampler, number_concepts
from ..data.captions import CaptionMaker, CaptionOptions, Captions
from ..data.columns import (
    Columns,
    check_columns,
    choose_image_column,
    choose_texts,
    column_kinds,
    read_keys,
)
from ..data.images import decode_all, decode_each
from ..data.map_style import EncodedImages, Images, ImageTextSamples, StoredImages
from ..data.native import (
    BudgetBatchSampler,
    NativeAugment,
    NativeCollator,
    NativeOptions,
    NativeSamples,
    fit_image,
)
from ..data.policies import SampleAugment
from ..data.rows import BadSamples, SkippedSample
from ..data.samples import SampleMaker
from ..data.sources import get_problems, get_split, open_shards, peek_kinds
from ..data.streaming.captions import StreamCaptions
from ..data.streaming.loader import StreamLoader
from ..data.streaming.options import StreamOptions
from ..data.transforms import AugmentOptions
from ..utils.devices import copies_pinned, default_device, free_memory
from ..utils.errors import UserError
from .options import DataOptions

logger = logging.getLogger(__name__)

#: Decoded images may take this share of the memory that is free: training needs some, too.
MOST_MEMORY = 0.8


@dataclass
class TrainingData:
    """The batches of a run, and what could not be read of its dataset.

    Args:
        loader: gives the batches of an epoch.
        sampler: chooses them; `set_epoch` before each epoch.
        bad: undecodable images found so far.
        num_rows: rows of the training split; of a stream, samples an epoch.
        num_concepts: distinct concepts among them.
    """

    loader: DataLoader | StreamLoader
    sampler: ConceptBatchSampler | StreamLoader
    bad: BadSamples
    num_rows: int
    num_concepts: int

    @property
    def samples(self) -> ImageTextSamples | None:
        """The samples by row and draw; None for a stream."""
        dataset = getattr(self.loader, "dataset", None)
        return dataset if isinstance(dataset, ImageTextSamples) else None

    @property
    def collate(self) -> Collator:
        """What makes batches of samples."""
        loader = self.loader
        collate = loader.collate if isinstance(loader, StreamLoader) else loader.collate_fn
        assert isinstance(collate, Collator)
        return collate


class TrainingRows(Protocol):
    """The rows that a run trains on, with their texts."""

    @property
    def captions(self) -> Captions:
        """Their texts."""

    def load(
        self,
        maker: SampleMaker,
        collate: Collator,
        batch_size: int,
        pairs_only: bool,
        sizes: Mapping[int, int] | None = None,
    ) -> TrainingData:
        """Set up the batches.

        Args:
            maker: makes samples of the rows.
            collate: makes batches of samples.
            batch_size: samples per batch of this process.
            sizes: for images in their own aspect ratio, most patches of an image -> samples per
                batch, in place of `batch_size`.
            pairs_only: whether the loss takes a text as the only positive of its image.

        Raises:
            DataError: there is no such column, or too many rows cannot be used.
        """


class TableRows:
    """The training split of a dataset with random access.

    Args:
        splits: of the dataset.
        options: which split and columns, and how they are loaded.
        captions: how texts are made of a row.
        classes: the classes in their order, if a checkpoint defines them.

    Raises:
        DataError: there is no such split or column.
    """

    def __init__(
        self,
        splits: DatasetDict,
        options: DataOptions,
        captions: CaptionOptions,
        classes: list[str],
    ):
        self.options = options
        self.split = get_split(splits, options.train_split, options.dataset)
        self.unread = get_problems(splits, options.train_split)
        self.captions = CaptionMaker(self.split, captions, options.dataset, classes)

    def load(
        self,
        maker: SampleMaker,
        collate: Collator,
        batch_size: int,
        pairs_only: bool,
        sizes: Mapping[int, int] | None = None,
    ) -> TrainingData:
        """Decode or open the images, and set up sampler and loader."""
        options, captions = self.options, self.captions
        concepts = self.find_concepts(pairs_only)
        keys = captions.keys() if concepts is None else concepts
        images = prepare_images(self.split, options, maker.augment, self.unread, captions.problems)
        samples = build_samples(images, maker, concepts, self.split, sizes)
        by_rows = concepts is None or (options.images_per_concept == 1 and not pairs_only)
        groups = {row: row if by_rows else keys[row] for row in images.rows}
        sampler = build_sampler(groups, sizes or batch_size, options.images_per_concept, maker.seed)
        loader = build_loader(samples, sampler, collate, options)
        return TrainingData(loader, sampler, images.bad, len(self.split), len(set(keys)))

    def find_concepts(self, pairs_only: bool) -> list[int] | None:
        """The concept of each row: of its concept column, or its class, or its captions.

        None if equal captions are drawn of equal concepts.
        """
        column = self.options.concept_column
        if column:
            return number_concepts(read_keys(self.split, column, self.options.dataset))
        if pairs_only:
            return list(range(len(self.split)))
        if self.captions.labels is None and self.options.images_per_concept == 1:
            return None
        return number_concepts(self.captions.keys())


class StreamRows:
    """The training split of the sources of a stream.

    Args:
        stream: the sources, and the order in which they are read.
        options: which split and columns, and how they are loaded.
        captions: how texts are made of a row.

    Raises:
        DataError: a source cannot be opened.
    """

    def __init__(self, stream: StreamOptions, options: DataOptions, captions: CaptionOptions):
        self.stream, self.options = stream, options
        column = options.image_column
        self.captions = StreamCaptions(stream, options.train_split, captions, column)

    def load(
        self,
        maker: SampleMaker,
        collate: Collator,
        batch_size: int,
        pairs_only: bool,
        sizes: Mapping[int, int] | None = None,
    ) -> TrainingData:
        """Set up the loader of this process."""
        options, state = self.options, PartialState()
        loader = StreamLoader(
            self.stream,
            options.train_split,
            maker,
            collate,
            batch_size,
            maker.seed,
            options.dataloader_num_workers,
            state.process_index,
            state.num_processes,
            sizes,
        )
        bad, samples = BadSamples(options.max_bad_sample_ratio), self.stream.samples_per_epoch
        return TrainingData(loader, loader, bad, samples, samples)


def find_columns(
    data: DataOptions,
    captions: CaptionOptions,
    stream: StreamOptions,
    splits: DatasetDict,
    kept: dict,
) -> Columns:
    """The columns of images, captions and classes: as named, as kept, or guessed.

    Args:
        data, captions: name columns, or leave them open.
        stream: its first source is looked at, if there is one.
        splits: of the dataset otherwise.
        kept: the recipe of the run that is resumed, with the columns that it found; empty for a new
            run.

    Raises:
        DataError: the columns give no hint.
    """
    image = data.image_column or kept.get("image_column")
    texts = captions.caption_columns, captions.label_column
    if not captions.sources():
        texts = kept.get("caption_columns") or [], kept.get("label_column")
    if image and any(texts):
        return Columns(image, *texts)
    path = data.dataset
    if stream.stream_sources:
        path = stream.stream_sources[0]
        kinds = peek_kinds(open_shards(path, data.train_split, image_column=image))
    else:
        kinds = column_kinds(get_split(splits, data.train_split, path).features)
    image = image or choose_image_column(kinds, path)
    return Columns(image, *(texts if any(texts) else choose_texts(kinds, image, path)))


@dataclass
class ReadyImages:
    """The images of a split.

    Args:
        images: by row.
        rows: those that are not known to be bad.
        bad: what could not be decoded.
    """

    images: Images
    rows: list[int]
    bad: BadSamples


def prepare_images(
    split: Dataset,
    options: DataOptions,
    augment: SampleAugment,
    unread: list[SkippedSample],
    problems: dict[int, str],
) -> ReadyImages:
    """Open the images of a split, or decode them all at once.

    Args:
        split: the rows.
        options: which column, and whether to decode all.
        augment: varies the images afterwards, and says to what size they are decoded.
        unread: rows that could not be read at all.
        problems: row -> what is wrong with its texts or its class.

    Raises:
        DataError: there is no such column, or too many rows cannot be used.
    """
    column = str(options.image_column)
    check_columns(split.column_names, [column], options.dataset)
    bad = BadSamples(options.max_bad_sample_ratio, seen=len(unread))
    for row in unread:
        bad.add(row.name, row.reason)
    if options.cache_images:
        pixels, rows = decode_for(augment, split, column, options.dataset, bad, problems)
        for example in bad.examples[len(unread) :]:
            logger.warning("skipped %s", example)
        return ReadyImages(StoredImages(pixels, rows), rows, bad)
    images = EncodedImages(split, column)
    for number, reason in problems.items():
        _, name = images[number]
        logger.warning("skipped %s: %s", name, reason)
        bad.add(name, reason)
    if bad.count:
        bad.seen += len(split)
        bad.check(options.dataset)
    return ReadyImages(images, [row for row in range(len(split)) if row not in problems], bad)


def decode_for(
    augment: SampleAugment,
    split: Dataset,
    column: str,
    path: str,
    bad: BadSamples,
    problems: dict[int, str],
) -> tuple[torch.Tensor | list[torch.Tensor], list[int]]:
    """The pixels that the augmentation of samples begins with; otherwise as `decode_all`.

    Raises:
        DataError: more rows are bad than `bad` allows, or all are.
        UserError: they would not fit into memory.
    """
    if isinstance(augment, NativeAugment):
        size, most = augment.size, augment.max_patches
        check_memory(len(split), math.ceil(size * most**0.5))
        resize = partial(fit_image, patch_size=size, max_patches=most)
        return decode_each(split, column, resize, path, bad, problems)
    check_memory(len(split), augment.size)
    return decode_all(split, column, augment.size, path, bad, problems)


def check_memory(num_images: int, image_size: int, free: int | None = None):
    """Reject decoded images that would take too much of this machine's memory.

    Args:
        num_images: of the training split; each process on a machine holds them all.
        image_size: side of an image in pixels.
        free: bytes of memory; by default those that are free now.

    Raises:
        UserError: with how much they would take, and what to set instead.
    """
    free = free_memory() if free is None else free
    needed = num_images * 3 * image_size**2 * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if needed > MOST_MEMORY * free:
        raise UserError(
            f"cache_images=true would take {needed / 1e9:.1f} GB for {num_images} decoded images, "
            f"and {free / 1e9:.1f} GB of memory are free: set cache_images=false, which decodes "
            "them when they are read"
        )


def build_samples(
    images: ReadyImages,
    maker: SampleMaker,
    concepts: Sequence[int] | None,
    split: Dataset,
    sizes: Mapping[int, int] | None,
) -> ImageTextSamples:
    """The samples of a split: of squares, or with `sizes` of images in their own aspect ratio."""
    kind = ImageTextSamples if sizes is None else NativeSamples
    return kind(images.images, maker, concepts, split._fingerprint)


def build_sampler(
    groups: dict[int, int], sizes: int | Mapping[int, int], images_per_concept: int, seed: int
) -> ConceptBatchSampler:
    """What chooses the rows of each batch.

    Args:
        groups: concept of each usable row.
        sizes: images of a batch, or most patches of an image -> images of a batch.
        images_per_concept: images of each concept in a batch.
        seed: of the order.
    """
    if isinstance(sizes, int):
        return ConceptBatchSampler(groups, sizes, images_per_concept, seed)
    processes = PartialState().num_processes
    return BudgetBatchSampler(groups, sizes, images_per_concept, seed, processes)


def build_loader(
    samples: ImageTextSamples,
    sampler: ConceptBatchSampler,
    collate: Callable,
    options: DataOptions,
) -> DataLoader:
    """The batches of a split.

    Args:
        samples: of the split.
        sampler: chooses the rows of each batch.
        collate: makes batches of samples.
        options: how many workers make them.
    """
    workers = options.dataloader_num_workers
    return DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=copies_pinned(default_device().type),
        # Its own generator: otherwise each new pass would draw from the one that dropout uses, and
        # a run that is resumed in the middle of a pass would diverge.
        generator=torch.Generator().manual_seed(sampler.seed),
    )


def build_collator(
    tokenizer: PreTrainedTokenizerBase | None,
    image_processor: Any,
    augment: AugmentOptions,
    native: NativeOptions,
    text_pad_multiple: int = 1,
) -> Collator:
    """What makes batches of samples; without a tokenizer, of images with classes."""
    arguments = tokenizer, augment, image_processor.image_mean, image_processor.image_std
    if native.is_on:
        form = image_processor.patch_size, native.image_seq_lens
        return NativeCollator(*arguments, *form, text_pad_multiple)
    return Collator(*arguments, text_pad_multiple)
