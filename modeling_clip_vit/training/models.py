"""Build or load the models that are trained, and their processors."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    CLIPImageProcessor,
    CLIPProcessor,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    Siglip2ImageProcessor,
)
from transformers.image_utils import PILImageResampling

from ..configuration_clip_vit import ClipVitConfig, ClipVitTextConfig
from ..conversion.published import local_checkpoint, local_tower
from ..data.captions import Captions
from ..data.tokenizer import train_tokenizer
from ..modeling_clip_vit import ClipVitModel
from ..towers import change_fields, hold_image_size, resize_images
from ..utils.errors import UserError, as_user_error
from ..utils.from_pretrained import (
    find_checkpoint,
    is_quantized,
    load_config,
    load_image_processor,
    load_processor,
    load_tokenizer,
    loading,
)
from ..utils.from_pretrained import load_model as load_whole_model
from ..utils.resources import find_resource
from .options import ModelOptions
from .sharding import build_new

#: Texts are never cut to more tokens than this.
LONGEST_TEXT = 100_000


def load_model(path: str, options: ModelOptions) -> tuple[ClipVitModel, CLIPProcessor]:
    """A CLIP of this package and its processor from a checkpoint, also one of a peer.

    Raises:
        UserError: the checkpoint holds another type of model, or its weights do not match.
    """
    path = local_checkpoint(path)
    config = load_config(path)
    if config.model_type != ClipVitConfig.model_type:
        raise UserError(
            f"{path} holds a model of type {config.model_type!r}, which is neither "
            f"{ClipVitConfig.model_type!r} nor can be converted to it"
        )
    refuse_quantized(config, path)
    with as_user_error():
        former = getattr(config.vision_config, "image_size", None)
        change_fields(config, options.model_fields)
        change_fields(config.vision_config, options.vision_fields)
        change_fields(config.text_config, options.text_fields)
    image_size = hold_image_size(config.vision_config, former)
    # Updates are small: in half precision, most would round to nothing.
    model = load_whole_model(
        AutoModel,
        path,
        config=config,
        dtype=torch.float32,
        attn_implementation=options.attn_implementation,
    )
    resize_images(model.vision_model, image_size)
    processor = load_processor(path)
    resize_processor(processor.image_processor, former, model.config.vision_config.image_size)
    return model, processor


def resize_processor(image_processor: Any, former: int | None, image_size: int):
    """Have an image processor make images of another size than its checkpoint was made for.

    Args:
        image_processor: changed; what it cuts off at the border stays the same share.
        former: side of the images of the checkpoint in pixels; None changes nothing.
        image_size: side of the images wanted.
    """
    if former in (None, image_size):
        return
    for name in ("size", "crop_size"):
        sides = getattr(image_processor, name, None)
        if sides is not None:
            scaled = {
                side: length and round(length * image_size / former)
                for side, length in dict(sides).items()
            }
            setattr(image_processor, name, type(sides)(**scaled))


def refuse_quantized(config: PretrainedConfig, path: str):
    """Reject a quantised checkpoint: integers do not learn.

    Raises:
        UserError: it is one.
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


def with_local_towers(options: ModelOptions) -> ModelOptions:
    """The same options, with towers that Transformers loads in place of those of other peers."""
    vision, text = options.vision_model_name_or_path, options.text_model_name_or_path
    return replace(
        options,
        vision_model_name_or_path=vision and local_tower(vision),
        text_model_name_or_path=text and local_tower(text),
    )


def build_model(
    options: ModelOptions,
    captions: Captions,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> tuple[ClipVitModel, CLIPProcessor]:
    """A new model, with pretrained towers if the options name them, and its processor.

    The tokenizer is that of the pretrained text tower, or else the given one, or else the one that
    the options name, or else learns from the captions.

    Raises:
        UserError: there is no configuration, it is of another type of model or not valid, or the
            text tower cannot use the tokenizer that the options name.
    """
    options = with_local_towers(options)
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
        if tokenizer is None and options.tokenizer_name_or_path:
            tokenizer = load_tokenizer_for(config.text_config, options.tokenizer_name_or_path)
        tokenizer = tokenizer or train_tokenizer_for(config.text_config, captions)
        take_tokenizer(config.text_config, tokenizer)
    towers = [options.vision_model_name_or_path, options.text_model_name_or_path]
    vision_path, text_path = (find_checkpoint(path) if path else None for path in towers)
    with loading(" or ".join(filter(None, towers))) if any(towers) else as_user_error():
        join = partial(
            ClipVitModel.from_vision_text_pretrained,
            *(vision_path, text_path, options.vision_fields, options.text_fields),
            config=config,
        )
        model = join() if any(towers) else build_new(join, options)
    if options.attn_implementation:
        model.set_attn_implementation(options.attn_implementation)
    processor = build_processor(tokenizer, model.config.vision_config.image_size)
    if options.vision_model_name_or_path:
        mean, std = mean_and_std(load_image_processor(options.vision_model_name_or_path))
        processor.image_processor.image_mean = mean
        processor.image_processor.image_std = std
    return model, processor


def mean_and_std(image_processor: Any) -> tuple[list[float], list[float]]:
    """What an image processor normalises pixels with, for each channel."""
    if hasattr(image_processor, "data_config"):  # of timm
        fields = image_processor.data_config
        return list(fields["mean"]), list(fields["std"])
    return image_processor.image_mean, image_processor.image_std


def train_tokenizer_for(config: ClipVitTextConfig, captions: Captions) -> PreTrainedTokenizerBase:
    """A tokenizer that learned from the captions, of the configuration's size."""
    return train_tokenizer(captions.corpus(), config.vocab_size, config.max_position_embeddings)


def load_tokenizer_for(config: ClipVitTextConfig, path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, which cuts what a tower of the configuration cannot read.

    Raises:
        UserError: it cannot pad, or has no end token where the tower looks for one.
    """
    tokenizer = load_padding_tokenizer(path)
    tokenizer.model_max_length = min(tokenizer.model_max_length, config.max_position_embeddings)
    if config.pooling == "eos" and tokenizer.eos_token_id not in tokenizer("a").input_ids:
        raise UserError(
            f"the tokenizer of {path!r} puts no end token behind a text, which pooling='eos' looks "
            "for: set text_fields to {pooling: last}, or to another pooling"
        )
    return tokenizer


def take_tokenizer(config: ClipVitTextConfig, tokenizer: PreTrainedTokenizerBase):
    """Give a configuration the numbers of a tokenizer."""
    config.vocab_size = len(tokenizer)
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id


def load_padding_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint, which can pad.

    Raises:
        UserError: it cannot.
    """
    tokenizer = load_tokenizer(path)
    if tokenizer.pad_token is None:
        raise UserError(f"the tokenizer of {path!r} has no padding token: set one and save it")
    return tokenizer


def load_text_tokenizer(path: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a pretrained text tower, which cuts what that tower cannot read.

    Raises:
        UserError: it cannot pad.
    """
    tokenizer = load_padding_tokenizer(path)
    if tokenizer.model_max_length > LONGEST_TEXT:  # it says that it knows no limit
        positions = getattr(load_config(path), "max_position_embeddings", None)
        tokenizer.model_max_length = positions or LONGEST_TEXT
    return tokenizer


def build_processor(tokenizer: PreTrainedTokenizerBase, image_size: int) -> CLIPProcessor:
    """Transformers' CLIP processor for square images of this size, over any tokenizer."""
    return CLIPProcessor(image_processor=build_image_processor(image_size), tokenizer=tokenizer)


def build_native_processor(
    image_processor: Any, patch_size: int, max_patches: int
) -> Siglip2ImageProcessor:
    """What makes patches of images of any shape, which it keeps, and normalises as another does.

    Args:
        image_processor: that normalises.
        patch_size: side of a patch in pixels.
        max_patches: most patches of an image.
    """
    mean, std = mean_and_std(image_processor)
    return Siglip2ImageProcessor(
        patch_size=patch_size,
        max_num_patches=max_patches,
        image_mean=mean,
        image_std=std,
        resample=PILImageResampling.BICUBIC,
    )


def build_image_processor(image_size: int) -> CLIPImageProcessor:
    """CLIP's image processor for square images of this size."""
    return CLIPImageProcessor(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    )
