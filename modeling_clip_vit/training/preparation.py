"""From arguments to what a run trains with: data, tokenizer, processor and model."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPImageProcessor,
    CLIPProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
)

from ..configuration_clip_vit import ClipVitConfig, ClipVitTextConfig
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
from ..data.columns import (
    check_columns,
    choose_image_column,
    choose_texts,
    column_kinds,
    read_keys,
)
from ..data.images import BadSamples, decode_all
from ..data.policies import SampleAugment
from ..data.rows import SkippedSample
from ..data.sources import get_problems, get_split, open_dataset
from ..data.stream_samples import SampleMaker
from ..data.streams import StreamCaptions, StreamLoader, find_class_names, peek_kinds
from ..data.tokenizer import train_tokenizer
from ..evaluation.classifier import ClassEvaluator
from ..evaluation.evaluator import EvaluationSet, Evaluator, read_evaluation_set
from ..inference.loading import is_quantized
from ..modeling_clip_vit import ClipVitModel
from ..towers import change_fields
from ..utils.errors import UserError, as_user_error
from ..utils.from_pretrained import (
    find_checkpoint,
    load_config,
    load_image_processor,
    load_processor,
    load_tokenizer,
    loading,
)
from ..utils.from_pretrained import load_model as load_whole_model
from ..utils.resources import find_resource
from .arguments import ModelOptions, TrainArguments
from .learning import freeze
from .restart import Restart

logger = logging.getLogger(__name__)

#: Losses for which text i belongs to image i, and no other text may.
PAIR_LOSSES = ("clip", "hard_negative")
#: Texts are never cut to more tokens than this.
LONGEST_TEXT = 100_000


@dataclass
class TrainingData:
    """The batches of a run, and what could not be read of its data set.

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
class Preparation:
    """All that a run needs before its first step."""

    model: Any  # ClipVitModel, or ClipVitForImageClassification
    processor: Any  # CLIPProcessor, or CLIPImageProcessor
    data: TrainingData
    evaluator: Evaluator | ClassEvaluator | None
    frozen: list[nn.Module]
    class_names: list[str] = field(default_factory=list)


def prepare(args: TrainArguments, restart: Restart | None = None) -> Preparation:
    """Open the data, train or load the tokenizer, build or load the model.

    Columns that the arguments leave open are filled in there.

    Args:
        args: of the run.
        restart: what a checkpoint keeps, of a run that goes on.

    Raises:
        DataError, ValueError: something about the data or the model is not as asked for; nothing
            has been written then.
    """
    args.check_dataset()
    restart = restart or Restart()
    is_stream = bool(args.stream.stream_sources)
    splits = DatasetDict()
    if not is_stream or args.data.eval_split is not None:
        splits = open_dataset(args.data.dataset, args.data.image_column)
    captions: CaptionMaker | StreamCaptions
    if is_stream:
        source = args.stream.stream_sources[0]
        fill_columns(args, lambda: peek_kinds(source, args.data.train_split), source)
        captions = StreamCaptions(args.stream, args.data.train_split, args.captions)
    else:
        train_split = get_split(splits, args.data.train_split, args.data.dataset)
        fill_columns(args, lambda: column_kinds(train_split.features), args.data.dataset)
        captions = CaptionMaker(train_split, args.captions, args.data.dataset, restart.class_names)
    if args.model.model_name_or_path:
        model, processor = load_model(args.model.model_name_or_path, args.model)
    else:
        kept = restart.processor.tokenizer if restart.processor else None
        model, processor = build_model(args.model, captions, kept)
    image_size = model.config.vision_config.image_size
    if isinstance(captions, StreamCaptions):
        data = prepare_stream(args, processor, image_size)
    else:
        unread = get_problems(splits, args.data.train_split)
        data = prepare_data(args, train_split, captions, processor, image_size, unread)
    if isinstance(captions, CaptionMaker):
        classes = captions.labels.names if captions.labels else []
    else:
        classes = captions.class_names
    evaluator = prepare_evaluator(args, splits, image_size, classes or None)
    return Preparation(model, processor, data, evaluator, freeze(model, args.model), classes)


def fill_columns(args: TrainArguments, find_kinds: Callable[[], dict[str, str]], path: str):
    """Fill in the columns of images and of captions where the arguments name none.

    Raises:
        DataError: they cannot be told.
    """
    data, captions = args.data, args.captions
    if data.image_column and captions.sources():
        return
    kinds = find_kinds()
    if not data.image_column:
        data.image_column = choose_image_column(kinds, path)
    if not captions.sources():
        columns, label_column = choose_texts(kinds, data.image_column, path)
        captions.caption_columns, captions.label_column = columns, label_column
        captions.check_weights()
        args.__post_init__()  # what does not go together with classes


def load_model(path: str, options: ModelOptions) -> tuple[ClipVitModel, CLIPProcessor]:
    """A CLIP of this package and its processor from a checkpoint.

    Raises:
        ValueError: the checkpoint holds another type of model, or other weights than it has.
    """
    config = load_config(path)
    if config.model_type != ClipVitConfig.model_type:
        raise UserError(
            f"{path} holds a model of type {config.model_type!r}, not {ClipVitConfig.model_type!r}"
        )
    refuse_quantized(config, path)
    with as_user_error():
        change_fields(config, options.model_fields)
        change_fields(config.vision_config, options.vision_fields)
        change_fields(config.text_config, options.text_fields)
    # Updates are small: in half precision, most would round to nothing.
    model = load_whole_model(
        AutoModel,
        path,
        config=config,
        dtype=torch.float32,
        attn_implementation=options.attn_implementation,
    )
    return model, load_processor(path)


def refuse_quantized(config: PretrainedConfig, path: str):
    """Refuse a checkpoint in integers, which do not learn.

    Raises:
        ValueError: it is one.
    """
    if is_quantized(config):
        raise UserError(
            f"{path} is quantised already: train the float checkpoint that it was made of, with "
            "quantization_mode"
        )


def find_config(options: ModelOptions) -> Path:
    """Where the configuration of a new model is.

    Raises:
        UserError: there is none.
    """
    path = find_resource("model", options.model_config)
    if not (path / "config.json").is_file() and not path.is_file():
        raise UserError(f"no config.json in {str(path)!r} (looked in {Path.cwd()})")
    return path


def build_model(
    options: ModelOptions,
    captions: CaptionMaker | StreamCaptions,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[ClipVitModel, CLIPProcessor]:
    """A new model, pretrained towers in it where asked for, and its processor.

    The tokenizer is the given one, or that of the pretrained text tower, or learns from the
    captions.

    Raises:
        FileNotFoundError: there is no configuration in that folder.
        ValueError: it is the configuration of another type of model, or not a valid one.
    """
    path = find_config(options)
    with as_user_error():
        config = AutoConfig.from_pretrained(path)
    if config.model_type != ClipVitConfig.model_type:
        raise UserError(
            f"{path} configures a model of type {config.model_type!r}, not "
            f"{ClipVitConfig.model_type!r}"
        )
    with as_user_error():
        change_fields(config, options.model_fields)
        if not options.vision_model_name_or_path:
            change_fields(config.vision_config, options.vision_fields)
        if not options.text_model_name_or_path:
            change_fields(config.text_config, options.text_fields)
    if options.text_model_name_or_path:
        tokenizer = load_text_tokenizer(options.text_model_name_or_path)
    else:
        tokenizer = tokenizer or train_tokenizer_for(config.text_config, captions)
        take_tokenizer(config.text_config, tokenizer)
    towers = [options.vision_model_name_or_path, options.text_model_name_or_path]
    vision_path, text_path = (find_checkpoint(path) if path else None for path in towers)
    with loading(" or ".join(filter(None, towers))) if any(towers) else as_user_error():
        model = ClipVitModel.from_vision_text_pretrained(
            vision_path, text_path, options.vision_fields, options.text_fields, config=config
        )
    if options.attn_implementation:
        model.set_attn_implementation(options.attn_implementation)
    processor = build_processor(tokenizer, model.config.vision_config.image_size)
    if options.vision_model_name_or_path:
        pretrained = load_image_processor(options.vision_model_name_or_path)
        processor.image_processor.image_mean = pretrained.image_mean
        processor.image_processor.image_std = pretrained.image_std
    return model, processor


def train_tokenizer_for(
    config: ClipVitTextConfig, captions: CaptionMaker | StreamCaptions
) -> PreTrainedTokenizerBase:
    """A tokenizer that learned from the captions, of the configuration's size."""
    return train_tokenizer(captions.corpus(), config.vocab_size, config.max_position_embeddings)


def take_tokenizer(config: ClipVitTextConfig, tokenizer: PreTrainedTokenizerBase):
    """Give a configuration the numbers of a tokenizer."""
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id


def load_text_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained text tower, which cuts what that tower cannot read.

    Raises:
        ValueError: it cannot pad.
    """
    tokenizer = load_tokenizer(path)
    if tokenizer.pad_token is None:
        raise UserError(f"the tokenizer of {path!r} has no padding token: set one and save it")
    if tokenizer.model_max_length > LONGEST_TEXT:  # it says that it knows no limit
        positions = getattr(load_config(path), "max_position_embeddings", None)
        tokenizer.model_max_length = positions or LONGEST_TEXT
    return tokenizer


def build_processor(tokenizer: PreTrainedTokenizerBase, image_size: int) -> CLIPProcessor:
    """Transformers' CLIP processor for square images of this size, over any tokenizer."""
    return CLIPProcessor(image_processor=build_image_processor(image_size), tokenizer=tokenizer)


def build_image_processor(image_size: int) -> CLIPImageProcessor:
    """CLIP's image processor for square images of this size."""
    return CLIPImageProcessor(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )


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
    needs_pairs = args.loss.loss in PAIR_LOSSES
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
    if args.loss.loss in PAIR_LOSSES:
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
        # Its own, or each new pass would draw from the generator that dropout draws from, and a
        # run that was resumed in the middle of a pass would go another way.
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
