"""What prepares the images and texts of a peer's model, as a processor of Transformers."""

import json
import math
from pathlib import Path
from typing import Any

from transformers import (
    AutoTokenizer,
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPTokenizer,
    PreTrainedTokenizerFast,
)

from ..utils.folders import write_json
from ..utils.from_pretrained import load_image_processor, load_processor
from .sources import OPEN_CLIP_CONFIG
from .verify import is_tower
from .weights import ConversionError

#: Where Transformers writes an image processor.
IMAGE_PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")
#: Names of resampling filters -> their numbers in Pillow.
RESAMPLING = {"bilinear": 2, "bicubic": 3}
RESAMPLING_NAMES = {number: name for name, number in RESAMPLING.items()}
#: How open_clip names the end and the beginning of a text, and how Transformers does.
BPE_NAMES = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
#: Everything that open_clip's "canonicalize" takes out of a text, as a regular expression.
PUNCTUATION = r"[!-/:-@\[-`{-~]"


def transformers_processor(model: Any, folder: Path) -> Any:
    """The processor of a model of Transformers or ours; None where its folder has none.

    An image tower and a classifier have an image processor alone.
    """
    if (folder / "tokenizer_config.json").is_file():
        return load_processor(str(folder))
    has_images = any((folder / name).is_file() for name in IMAGE_PROCESSOR_FILES)
    return load_image_processor(str(folder)) if has_images and is_tower(model) else None


def timm_processor(model: Any, folder: Path) -> CLIPImageProcessor:
    """The image processor of a model of timm, by its own configuration.

    Raises:
        ConversionError: it prepares images in a way that CLIP's image processor does not.
    """
    from timm.data import resolve_model_data_config

    fields = resolve_model_data_config(model)
    if fields["crop_mode"] not in ("center", "squash"):
        raise ConversionError(
            f"no image processor prepares images as timm's crop_mode={fields['crop_mode']!r} does"
        )
    size = fields["input_size"][-1]
    return build_image_processor(
        size,
        math.floor(size / fields["crop_pct"]),
        fields["crop_mode"] == "squash",
        fields["interpolation"],
        fields["mean"],
        fields["std"],
    )


def open_clip_processor(model: Any, folder: Path) -> CLIPProcessor | None:
    """The processor of a model of open_clip: CLIP's own tokenizer, or the one in the folder.

    None where the tokenizer is not there.

    Raises:
        ConversionError: it prepares images or texts in a way that CLIP's processor does not.
    """
    fields = model.visual.preprocess_cfg
    if fields.get("resize_mode") == "longest":
        raise ConversionError(
            "no image processor prepares images as open_clip's resize_mode='longest' does"
        )
    size = model.visual.image_size
    size = size[0] if isinstance(size, list | tuple) else size
    images = build_image_processor(
        size,
        size,
        fields.get("resize_mode") == "squash",
        fields.get("interpolation", "bicubic"),
        fields["mean"],
        fields["std"],
    )
    config = json.loads((folder / OPEN_CLIP_CONFIG).read_text(encoding="utf-8"))
    tokenizer = open_clip_tokenizer(
        config["model_cfg"]["text_cfg"], folder, is_padding_read=reads_padding(model)
    )
    return None if tokenizer is None else CLIPProcessor(images, tokenizer)


def build_image_processor(
    crop: int, size: int, is_squashed: bool, interpolation: str, mean: Any, std: Any
) -> CLIPImageProcessor:
    """An image processor that resizes, and cuts a square from the middle.

    Args:
        crop: side of the square in pixels.
        size: of the shorter side after resizing, or of both if images are squashed.
        is_squashed: whether resizing changes the shape of an image.
        interpolation: a key of `RESAMPLING`.
        mean, std: of the pixels of each channel.

    Raises:
        ConversionError: the interpolation has another name.
    """
    if interpolation not in RESAMPLING:
        raise ConversionError(
            f"images are resized by interpolation={interpolation!r}: it must be one of "
            f"{', '.join(RESAMPLING)}"
        )
    return CLIPImageProcessor(
        size={"height": size, "width": size} if is_squashed else {"shortest_edge": size},
        crop_size={"height": crop, "width": crop},
        do_center_crop=not is_squashed or size != crop,
        resample=RESAMPLING[interpolation],
        image_mean=list(mean),
        image_std=list(std),
    )


def reads_padding(model: Any) -> bool:
    """Whether a text tower of open_clip attends to padding, which follows the text.

    An encoder of Transformers gets a mask; in a causal tower, the end of a text sees none of it.
    """
    text = getattr(model, "text", model)
    if not hasattr(text, "token_embedding"):
        return False
    pool_type = getattr(text, "pool_type", None) or getattr(text, "text_pool_type", None)
    return text.attn_mask is None or pool_type == "last"


def open_clip_tokenizer(fields: dict, folder: Path, is_padding_read: bool) -> Any:
    """The tokenizer of a model of open_clip; None where its files are not in the folder.

    Args:
        fields: `text_cfg` of the model.
        folder: with its files, unless it is CLIP's own.
        is_padding_read: whether the model attends to padding, and thus gets no mask.

    Raises:
        ConversionError: open_clip adds tokens of its own.
    """
    length = fields.get("context_length", 77)
    if not fields.get("hf_tokenizer_name"):
        return clip_tokenizer(length, is_padding_read)
    if not (folder / "tokenizer_config.json").is_file():
        return None
    options = dict(fields.get("tokenizer_kwargs") or {})
    if fields.get("tokenizer_mode"):
        raise ConversionError("no tokenizer adds the tokens that open_clip adds to its texts")
    tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    if options:
        tokenizer = as_saved(tokenizer)
    tokenizer.model_max_length = length
    if options.get("clean") == "canonicalize":
        canonicalize(tokenizer)
    if options.get("strip_sep_token"):
        end_with_padding(tokenizer)
    if is_padding_read:
        tokenizer.model_input_names = ["input_ids"]
    return tokenizer


def clip_tokenizer(length: int, is_padding_read: bool = False) -> CLIPTokenizer:
    """CLIP's tokenizer, with the vocabulary that open_clip brings.

    Args:
        length: the most tokens of a text.
        is_padding_read: whether to pad as open_clip does, with the id 0, which is a token of
            texts too, and to give no mask.
    """
    from open_clip.tokenizer import SimpleTokenizer

    simple = SimpleTokenizer()
    vocab = {BPE_NAMES.get(token, token): number for token, number in simple.encoder.items()}
    padding = {
        "pad_token": min(vocab, key=vocab.__getitem__),
        "split_special_tokens": True,
        "model_input_names": ["input_ids"],
    }
    return CLIPTokenizer(
        vocab=vocab,
        merges=list(simple.bpe_ranks),
        model_max_length=length,
        **(padding if is_padding_read else {}),
    )


def as_saved(tokenizer: Any) -> PreTrainedTokenizerFast:
    """A tokenizer that reads texts as its tokenizer.json says.

    Transformers' classes for one model's tokenizer build parts of it anew when they load it, so
    that changes of those would be lost.
    """
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        padding_side=tokenizer.padding_side,
        model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )


def end_with_padding(tokenizer: Any):
    """Let a tokenizer end texts with padding in place of the separator, as CLIPA's does.

    Raises:
        ConversionError: its padding is not the id 0, which open_clip writes there.
    """
    from tokenizers.processors import TemplateProcessing

    if tokenizer.pad_token_id != 0 or tokenizer.cls_token is None:
        raise ConversionError(
            "open_clip replaces the separator of texts by the id 0, which is not the padding of "
            "this tokenizer"
        )
    first, last = tokenizer.cls_token, tokenizer.pad_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{first} $A {last}",
        special_tokens=[(first, tokenizer.cls_token_id), (last, tokenizer.pad_token_id)],
    )


def canonicalize(tokenizer: Any):
    """Let a tokenizer read texts in lower case and without punctuation, as SigLIP's do."""
    from tokenizers import Regex, normalizers

    before = [
        normalizers.Replace("_", " "),
        normalizers.Replace(Regex(PUNCTUATION), ""),
        normalizers.Lowercase(),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]
    backend = tokenizer.backend_tokenizer
    after = [] if backend.normalizer is None else [backend.normalizer]
    backend.normalizer = normalizers.Sequence([*before, *after])


def write_timm_processor(images: Any, folder: Path):
    """Let a folder of timm prepare images as an image processor does.

    Args:
        images: the image processor of the model that was converted.
        folder: with timm's config.json.

    Raises:
        ConversionError: timm has no interpolation or no cut like the processor's.
    """
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    if int(images.resample) not in RESAMPLING_NAMES:
        raise ConversionError(
            f"resample={int(images.resample)} of the image processor is neither bilinear nor "
            "bicubic, so that timm's config.json cannot name it"
        )
    size, is_squashed = dict(images.size), "shortest_edge" not in images.size
    resized = size["height"] if is_squashed else size["shortest_edge"]
    crop = dict(images.crop_size)["height"] if images.do_center_crop else resized
    share = crop / resized
    if math.floor(crop / share) < resized:
        share = math.nextafter(share, 0)
    config["pretrained_cfg"] |= {
        "mean": list(images.image_mean),
        "std": list(images.image_std),
        "interpolation": RESAMPLING_NAMES[int(images.resample)],
        "crop_pct": share,
        "crop_mode": "squash" if is_squashed else "center",
    }
    write_json(path, config)


def write_open_clip_processor(processor: Any, folder: Path):
    """Let a folder of open_clip prepare images and texts as a processor does.

    Args:
        processor: of the model that was converted.
        folder: with open_clip_config.json; the files of the tokenizer go there as well.
    """
    images = processor.image_processor
    path = folder / OPEN_CLIP_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["preprocess_cfg"] = {
        "mean": list(images.image_mean),
        "std": list(images.image_std),
        "interpolation": RESAMPLING_NAMES.get(int(images.resample), "bicubic"),
        "resize_mode": "shortest" if "shortest_edge" in dict(images.size) else "squash",
    }
    tokenizer = processor.tokenizer
    if tokenizer.get_vocab() != clip_tokenizer(77).get_vocab():
        # open_clip then reads the tokenizer of this folder, whatever the name.
        config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = tokenizer.name_or_path or "local"
    write_json(path, config)
    processor.save_pretrained(folder)
