"""The processor of a model of open_clip prepares images and texts as open_clip does."""

import json
from pathlib import Path

import open_clip
import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, CLIPImageProcessor, PreTrainedTokenizerFast

from modeling_clip_vit.conversion import ConversionError
from modeling_clip_vit.conversion.convert import convert
from modeling_clip_vit.conversion.open_clip import compare_inputs, load
from modeling_clip_vit.conversion.open_clip.inputs import make_pictures, pixel_levels
from modeling_clip_vit.conversion.processors import build_image_processor, open_clip_processor
from tests.support.peers import (
    TEXT_TOWER,
    VISION,
    save_open_clip,
    save_open_clip_folder,
    save_open_clip_siglip,
    stir,
)

WORDS = ["a", "photo", "of", "cat", "big", "bone", "bigbone", "dog", "on", "mat", "many", "words"]
SPECIAL = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}


def word_tokenizer() -> PreTrainedTokenizerFast:
    """A BERT's special tokens, around words."""
    vocab = {token: number for number, token in enumerate([*SPECIAL.values(), *WORDS])}
    backend = Tokenizer(models.WordLevel(vocab, unk_token="[UNK]"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, vocab[name]) for name in ("[CLS]", "[SEP]")]
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def save_with_tokenizer(folder: Path, **options):
    """A model of CLIPA's kind with the files of a tokenizer."""
    vision = {"layers": 2, "width": 32, "head_width": 16, **VISION}
    text = {**TEXT_TOWER, "vocab_size": 16, "pool_type": "last", "no_causal_mask": True}
    text |= {"hf_tokenizer_name": "bert-base-uncased", "tokenizer_kwargs": options}
    fields = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": text}
    save_open_clip_folder(folder, stir(open_clip.CLIP(**fields)), fields, {})
    word_tokenizer().save_pretrained(folder)


#: What saves a model of open_clip.
SAVERS = {
    "CLIP": save_open_clip,
    "SigLIP": save_open_clip_siglip,
    "canonicalize": lambda folder: save_with_tokenizer(folder, clean="canonicalize"),
    "CLIPA": lambda folder: save_with_tokenizer(folder, strip_sep_token=True),
}


@pytest.fixture(params=SAVERS)
def published(request, tmp_path) -> Path:
    SAVERS[request.param](tmp_path / "peer")
    return tmp_path / "peer"


def test_pixels_differ_by_rounding_and_texts_not_at_all(published):
    peer = load(published)
    assert compare_inputs(peer, open_clip_processor(peer, published), published) <= 2


def test_a_tokenizer_reads_the_same_after_saving(published, tmp_path):
    peer = load(published)
    processor = open_clip_processor(peer, published)
    processor.save_pretrained(tmp_path / "saved")
    processor.tokenizer = AutoTokenizer.from_pretrained(tmp_path / "saved")
    compare_inputs(peer, processor, published)


def test_the_difference_of_pixels_is_said(tmp_path):
    save_open_clip(tmp_path / "peer")
    conversion = convert(str(tmp_path / "peer"))
    assert f"pixels {conversion.pixel_levels:.0f} of 255" in conversion.describe_differences()


def test_other_images_are_rejected(tmp_path):
    save_open_clip(tmp_path / "peer")
    peer = load(tmp_path / "peer")
    processor = open_clip_processor(peer, tmp_path / "peer")
    processor.image_processor = CLIPImageProcessor(
        size={"height": 32, "width": 32}, do_center_crop=False
    )
    with pytest.raises(ConversionError, match="prepares images otherwise than open_clip: pixels"):
        compare_inputs(peer, processor, tmp_path / "peer")


def test_other_tokens_are_rejected_with_the_text(tmp_path):
    save_with_tokenizer(tmp_path / "peer", strip_sep_token=True)
    path = tmp_path / "peer" / "open_clip_config.json"
    peer, processor = load(tmp_path / "peer"), None
    processor = open_clip_processor(peer, tmp_path / "peer")
    config = json.loads(path.read_text())
    config["model_cfg"]["text_cfg"]["tokenizer_kwargs"] = {}
    path.write_text(json.dumps(config))
    with pytest.raises(ConversionError, match=r"reads 'a photo of a cat' otherwise .* token 6"):
        compare_inputs(peer, processor, tmp_path / "peer")


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("mode", ["shortest", "squash"])
def test_pixels_of_a_large_picture_differ_by_rounding(mode, interpolation):
    fields = open_clip.transform.PreprocessCfg(interpolation=interpolation, resize_mode=mode)
    transform = open_clip.transform.image_transform_v2(fields, is_train=False)
    processor = build_image_processor(
        224, 224, mode == "squash", interpolation, fields.mean, fields.std
    )
    levels = [pixel_levels(transform(one), processor, one) for one in make_pictures(224)]
    assert torch.tensor(levels).max() <= 4
