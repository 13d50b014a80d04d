"""The batches of a run, and what it is measured on."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch.utils.data import DataLoader
from transformers import CLIPProcessor

from ..data.batches import (
    Collator,
    ConceptBatchSampler,
    DecodedImages,
    DecodedPixels,
    ImageTextSamples,
    StoredPixels,
    number_concepts,
)
from ..data.captions import CaptionMaker
from ..data.columns import check_columns, column_kinds, read_keys
from ..data.images import BadSamples, decode_all
from ..data.policies import SampleAugment
from ..data.rows import SkippedSample
from ..data.sources import get_split
from ..data.stream_samples import SampleMaker
from ..data.streams import StreamLoader, find_class_names
from ..evaluation.evaluator import EvaluationSet, Evaluator, read_evaluation_set
from ..losses import LOSSES
from ..utils.devices import copies_pinned, default_device
from .arguments import TrainArguments

logger = logging.getLogger(__name__)


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


@dataclass
class ReadyImages:
    """The images of a split.

    Args:
        read: row to uint8 pixels (3, S, S), or an image that `vary` makes them of, or a
            `BadImageError`.
        vary: what happens to one image before it comes into a batch.
        rows: those that are not known to be bad.
        name: row to what to call it in a message.
        bad: what could not be decoded.
    """

    read: Callable[[int], Any]
    vary: SampleAugment
    rows: list[int]
    name: Callable[[int], str]
    bad: BadSamples


def prepare_images(
    args: TrainArguments,
    split: Dataset,
    image_size: int,
    unread: list[SkippedSample],
    problems: dict[int, str],
) -> ReadyImages:
    """Open the images of a split, or decode them all at once.

    Args:
        args: of the run.
        split: the rows.
        image_size: side S of the pixels wanted.
        unread: rows that could not be read at all.
        problems: row -> what is wrong with its texts or its class.

    Raises:
        DataError: there is no such column, or too many rows cannot be used.
    """
    options = args.data
    column = str(options.image_column)
    check_columns(split, [column], options.dataset)
    vary = SampleAugment(args.augment, image_size)
    decoded = DecodedPixels(split, column, image_size)
    if args.augment.crop_scale:
        decoded = DecodedImages(split, column, image_size, vary.least_area)
    bad = BadSamples(options.max_bad_sample_ratio, seen=len(unread))
    for row in unread:
        bad.add(row.name, row.reason)
    if not options.cache_images:
        for number, reason in problems.items():
            logger.warning("skipped %s: %s", decoded.name(number), reason)
            bad.add(decoded.name(number), reason)
        rows = [row for row in range(len(split)) if row not in problems]
        if bad.count:
            bad.seen += len(split)
            bad.check(options.dataset)
        return ReadyImages(decoded, vary, rows, decoded.name, bad)
    pixels, rows, bad = decode_all(
        split,
        column,
        image_size,
        options.dataset,
        options.max_bad_sample_ratio,
        problems,
        bad,
    )
    for example in bad.examples[len(unread) :]:
        logger.warning("skipped %s", example)
    return ReadyImages(StoredPixels(pixels, rows), vary, rows, decoded.name, bad)


def prepare_data(
    args: TrainArguments,
    split: Dataset,
    captions: CaptionMaker,
    processor: CLIPProcessor,
    image_size: int,
    unread: list[SkippedSample],
) -> TrainingData:
    """Decode or open the images, and set up sampler, collator and loader."""
    concepts = find_concepts(args, split, captions)
    keys = captions.keys() if concepts is None else concepts
    images = prepare_images(args, split, image_size, unread, captions.problems)
    samples = ImageTextSamples(
        images.read, captions, concepts, images.name, args.run.seed, images.vary
    )
    needs_pairs = LOSSES[args.loss.loss].pairs_only
    by_rows = concepts is None or (args.data.images_per_concept == 1 and not needs_pairs)
    groups = {row: row if by_rows else keys[row] for row in images.rows}
    loader, sampler = build_loader(args, samples, groups, build_collator(args, processor))
    return TrainingData(loader, sampler, images.bad, len(split), len(set(keys)))


def find_concepts(args: TrainArguments, split: Dataset, captions: CaptionMaker) -> list[int] | None:
    """The concept of each row: of its concept column, or its class, or its captions.

    None where the caption that is drawn says it.
    """
    column = args.data.concept_column
    if column:
        return number_concepts(read_keys(split, column, args.data.dataset))
    if LOSSES[args.loss.loss].pairs_only:
        return list(range(len(split)))
    if captions.labels is None and args.data.images_per_concept == 1:
        return None
    return number_concepts(captions.keys())


def build_loader(
    args: TrainArguments, samples: Any, groups: dict[int, int], collate: Callable
) -> tuple[DataLoader, ConceptBatchSampler]:
    """The batches of a split whose rows are grouped to concepts, and what chooses them."""
    sampler = ConceptBatchSampler(
        groups,
        args.optimizer.per_device_train_batch_size,
        args.data.images_per_concept,
        args.run.seed,
    )
    workers = args.data.dataloader_num_workers
    loader = DataLoader(
        samples,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=copies_pinned(default_device().type),
        # Its own generator: otherwise each new pass would draw from the one that dropout uses, and
        # a run that is resumed in the middle of a pass would diverge.
        generator=torch.Generator().manual_seed(args.run.seed),
    )
    return loader, sampler


def prepare_stream(args: TrainArguments, processor: CLIPProcessor, image_size: int) -> TrainingData:
    """Open the sources of a stream, and set up the loader of this process."""
    options, state = args.data, PartialState()
    loader = StreamLoader(
        args.stream,
        options.train_split,
        SampleMaker(
            str(options.image_column),
            args.captions,
            options.concept_column,
            image_size,
            args.run.seed,
            args.augment,
            find_class_names(args.stream, options.train_split, args.captions.label_column),
        ),
        build_collator(args, processor),
        args.optimizer.per_device_train_batch_size,
        args.run.seed,
        options.dataloader_num_workers,
        state.process_index,
        state.num_processes,
    )
    samples = args.stream.samples_per_epoch
    return TrainingData(loader, loader, BadSamples(options.max_bad_sample_ratio), samples, samples)


def build_collator(args: TrainArguments, processor: CLIPProcessor) -> Collator:
    """What makes batches of samples."""
    return Collator(
        processor.tokenizer,
        args.augment,
        processor.image_processor.image_mean,
        processor.image_processor.image_std,
    )


def prepare_evaluator(
    args: TrainArguments, splits: DatasetDict, image_size: int, classes: list[str] | None
) -> Evaluator | None:
    """Decode what is evaluated on; None where the arguments name no split for it."""
    data, captions = args.data, args.captions
    if data.eval_split is None:
        return None
    sources = captions.sources()
    concept_column = data.concept_column or captions.label_column
    if concept_column is None and len(sources) == 1:
        concept_column = sources[0]

    def read(name: str, split: Dataset, label_columns: list[str]) -> EvaluationSet:
        return read_evaluation_set(
            name,
            add_texts(split, args, classes),
            data.dataset,
            image_size,
            str(data.image_column),
            sources,
            concept_column,
            label_columns,
            data.max_bad_sample_ratio,
        )

    evaluation = read(data.eval_split, get_eval_split(args, splits), data.zero_shot_columns)
    if data.new_concepts_split is None:
        return Evaluator(evaluation, None, data.zero_shot_templates)
    new_split = get_split(splits, data.new_concepts_split, data.dataset)
    new_rows = filter_rows(new_split, data.new_concepts_filter)
    new_concepts = read(data.new_concepts_split, new_rows, [])
    return Evaluator(evaluation, new_concepts, data.zero_shot_templates)


def get_eval_split(args: TrainArguments, splits: DatasetDict) -> Dataset:
    """The split to measure on.

    Raises:
        DataError: it is not there, or empty.
    """
    hint = "; name one with eval_split, or null to measure nothing"
    return get_split(splits, str(args.data.eval_split), args.data.dataset, hint)


def add_texts(split: Dataset, args: TrainArguments, classes: list[str] | None) -> Dataset:
    """A split with texts in a column for each source of captions, where it has none so far."""
    options = replace(args.captions, tags_columns={})
    captions = CaptionMaker(split, options, args.data.dataset, classes)
    for name, texts in captions.plain_texts().items():
        if column_kinds(split.features).get(name) in ("text", "texts"):
            continue
        if name in split.column_names:
            split = split.remove_columns(name)
        split = split.add_column(name, texts)
    return split


def filter_rows(split, wanted: dict[str, str]):
    """The rows whose columns have the wanted values, class labels by their names."""
    for column, value in wanted.items():
        check_columns(split, [column], "new_concepts_filter")
        feature = split.features[column]
        code = feature.str2int(value) if hasattr(feature, "str2int") else value
        column_values = split[column]
        split = split.select([row for row, other in enumerate(column_values) if other == code])
    return split
