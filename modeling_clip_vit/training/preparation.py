"""From arguments to what a run trains with: data, tokenizer, processor and model."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import PartialState
from datasets import DatasetDict
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoProcessor,
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPProcessor,
    PreTrainedTokenizerBase,
)

from ..configuration_clip_vit import ClipVitConfig, ClipVitTextConfig
from ..data.batches import (
    Collator,
    ConceptBatchSampler,
    DecodedPixels,
    ImageTextSamples,
    StoredPixels,
    number_concepts,
)
from ..data.captions import CaptionMaker
from ..data.images import BadSamples, decode_all
from ..data.sources import check_columns, get_split, open_dataset
from ..data.stream_samples import SampleMaker
from ..data.streams import StreamCaptions, StreamLoader
from ..data.tokenizer import train_tokenizer
from ..evaluation.evaluator import EvaluationSet, Evaluator, read_evaluation_set
from ..modeling_clip_vit import ClipVitModel
from ..pretrained import load_whole
from .arguments import ModelOptions, TrainArguments
from .learning import freeze

logger = logging.getLogger(__name__)

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

    model: ClipVitModel
    processor: CLIPProcessor
    data: TrainingData
    evaluator: Evaluator | None
    frozen: list[nn.Module]


def prepare(args: TrainArguments) -> Preparation:
    """Open the data, train or load the tokenizer, build or load the model.

    Raises:
        DataError, ValueError: something about the data or the model is not as asked for; nothing
            has been written then.
    """
    is_stream = bool(args.stream.stream_sources)
    splits = DatasetDict()
    if not is_stream or args.data.eval_split is not None:
        splits = open_dataset(args.data.dataset)
    captions: CaptionMaker | StreamCaptions
    if is_stream:
        captions = StreamCaptions(args.stream, args.data.train_split, args.captions)
    else:
        train_split = get_split(splits, args.data.train_split, args.data.dataset)
        captions = CaptionMaker(train_split, args.captions, args.data.dataset)
    if args.model.model_name_or_path:
        model, processor = load_model(args.model.model_name_or_path, args.model)
    else:
        model, processor = build_model(args.model, captions)
    image_size = model.config.vision_config.image_size
    if isinstance(captions, StreamCaptions):
        data = prepare_stream(args, processor, image_size)
    else:
        data = prepare_data(args, train_split, captions, processor, image_size)
    evaluator = prepare_evaluator(args, splits, image_size)
    return Preparation(model, processor, data, evaluator, freeze(model, args.model))


def load_model(path: str, options: ModelOptions) -> tuple[ClipVitModel, CLIPProcessor]:
    """A CLIP of this package and its processor from a checkpoint.

    Raises:
        ValueError: the checkpoint holds another type of model, or other weights than it has.
    """
    config = AutoConfig.from_pretrained(path)
    if config.model_type != ClipVitConfig.model_type:
        raise ValueError(
            f"{path} holds a model of type {config.model_type!r}, not {ClipVitConfig.model_type!r}"
        )
    # Updates are small: in half precision, most would round to nothing.
    model = load_whole(
        AutoModel, path, dtype=torch.float32, attn_implementation=options.attn_implementation
    )
    return model, AutoProcessor.from_pretrained(path)


def build_model(
    options: ModelOptions, captions: CaptionMaker | StreamCaptions
) -> tuple[ClipVitModel, CLIPProcessor]:
    """A new model, pretrained towers in it where asked for, and its processor.

    The tokenizer is that of the pretrained text tower, or learns from the captions.

    Raises:
        FileNotFoundError: there is no configuration in that folder.
        ValueError: it is the configuration of another type of model, or not a valid one.
    """
    path = Path(options.model_config)
    if not (path / "config.json").is_file() and not path.is_file():
        raise FileNotFoundError(f"no config.json in {str(path)!r} (looked in {Path.cwd()})")
    config = AutoConfig.from_pretrained(path)
    if config.model_type != ClipVitConfig.model_type:
        raise ValueError(
            f"{path} configures a model of type {config.model_type!r}, not "
            f"{ClipVitConfig.model_type!r}"
        )
    if options.text_model_name_or_path:
        tokenizer = load_tokenizer(options.text_model_name_or_path)
    else:
        tokenizer = train_tokenizer_for(config.text_config, captions)
    model = ClipVitModel.from_vision_text_pretrained(
        options.vision_model_name_or_path,
        options.text_model_name_or_path,
        options.vision_fields,
        options.text_fields,
        config=config,
    )
    if options.attn_implementation:
        model.set_attn_implementation(options.attn_implementation)
    processor = build_processor(tokenizer, model.config.vision_config.image_size)
    if options.vision_model_name_or_path:
        pretrained = AutoImageProcessor.from_pretrained(options.vision_model_name_or_path)
        processor.image_processor.image_mean = pretrained.image_mean
        processor.image_processor.image_std = pretrained.image_std
    return model, processor


def train_tokenizer_for(config: ClipVitTextConfig, captions: CaptionMaker | StreamCaptions):
    """A tokenizer that learned from the captions; the configuration gets its numbers."""
    tokenizer = train_tokenizer(
        captions.corpus(), config.vocab_size, config.max_position_embeddings
    )
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    return tokenizer


def load_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained text tower, which cuts what that tower cannot read.

    Raises:
        ValueError: it cannot pad.
    """
    tokenizer = AutoTokenizer.from_pretrained(path)
    if tokenizer.pad_token is None:
        raise ValueError(f"the tokenizer of {path!r} has no padding token: set one and save it")
    if tokenizer.model_max_length > LONGEST_TEXT:  # it says that it knows no limit
        positions = getattr(AutoConfig.from_pretrained(path), "max_position_embeddings", None)
        tokenizer.model_max_length = positions or LONGEST_TEXT
    return tokenizer


def build_processor(tokenizer: PreTrainedTokenizerBase, image_size: int) -> CLIPProcessor:
    """Transformers' CLIP processor for square images of this size, over any tokenizer."""
    image_processor = CLIPImageProcessor(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
    return CLIPProcessor(image_processor=image_processor, tokenizer=tokenizer)


def prepare_data(
    args: TrainArguments,
    split,
    captions: CaptionMaker,
    processor: CLIPProcessor,
    image_size: int,
) -> TrainingData:
    """Decode or open the images, and set up sampler, collator and loader."""
    options = args.data
    check_columns(split, [options.image_column], options.dataset)
    keys: list = list(range(len(split)))
    if options.concept_column:
        check_columns(split, [options.concept_column], options.dataset)
        keys = list(split[options.concept_column])
    concepts = number_concepts(keys)
    decoded = DecodedPixels(split, options.image_column, image_size)
    read_pixels: Callable[[int], torch.Tensor] = decoded
    rows = list(range(len(split)))
    bad = BadSamples(options.max_bad_sample_ratio)
    if options.cache_images:
        pixels, rows, bad = decode_all(
            split, options.image_column, image_size, options.dataset, options.max_bad_sample_ratio
        )
        read_pixels = StoredPixels(pixels, rows)
        for example in bad.examples:
            logger.warning("skipped %s", example)
    sampler = ConceptBatchSampler(
        {row: concepts[row] for row in rows},
        args.optimizer.per_device_train_batch_size,
        options.images_per_concept,
        args.run.seed,
    )
    loader = DataLoader(
        ImageTextSamples(read_pixels, captions, concepts, decoded.name, args.run.seed),
        batch_sampler=sampler,
        collate_fn=build_collator(args, processor),
        num_workers=options.dataloader_num_workers,
        persistent_workers=options.dataloader_num_workers > 0,
        # Its own, or each new pass would draw from the generator that dropout draws from, and a
        # run that was resumed in the middle of a pass would go another way.
        generator=torch.Generator().manual_seed(args.run.seed),
    )
    return TrainingData(loader, sampler, bad, len(split), len(set(keys)))


def prepare_stream(args: TrainArguments, processor: CLIPProcessor, image_size: int) -> TrainingData:
    """Open the sources of a stream, and set up the loader of this process."""
    options, state = args.data, PartialState()
    loader = StreamLoader(
        args.stream,
        options.train_split,
        SampleMaker(
            options.image_column,
            args.captions,
            options.concept_column,
            image_size,
            args.run.seed,
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
    args: TrainArguments, splits: DatasetDict, image_size: int
) -> Evaluator | None:
    """Decode what is evaluated on; None where the arguments name no split for it."""
    data = args.data
    if data.eval_split is None:
        return None

    def read(split, label_columns: list[str]) -> EvaluationSet:
        return read_evaluation_set(
            split,
            data.dataset,
            image_size,
            data.image_column,
            args.captions.caption_columns,
            data.concept_column,
            label_columns,
            data.max_bad_sample_ratio,
        )

    evaluation = read(get_split(splits, data.eval_split, data.dataset), data.zero_shot_columns)
    if data.new_concepts_split is None:
        return Evaluator(evaluation, None, data.zero_shot_templates)
    new_split = get_split(splits, data.new_concepts_split, data.dataset)
    new_concepts = read(filter_rows(new_split, data.new_concepts_filter), [])
    return Evaluator(evaluation, new_concepts, data.zero_shot_templates)


def filter_rows(split, wanted: dict[str, str]):
    """The rows whose columns have the wanted values, class labels by their names."""
    for column, value in wanted.items():
        check_columns(split, [column], "new_concepts_filter")
        feature = split.features[column]
        code = feature.str2int(value) if hasattr(feature, "str2int") else value
        column_values = split[column]
        split = split.select([row for row, other in enumerate(column_values) if other == code])
    return split
