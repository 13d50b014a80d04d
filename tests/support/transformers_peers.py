"""Small models of every two-tower type of Transformers that is converted."""

from collections.abc import Callable

from transformers import (
    Aimv2Config,
    Aimv2Model,
    AlignConfig,
    AlignModel,
    AlignProcessor,
    AltCLIPConfig,
    AltCLIPModel,
    AltCLIPProcessor,
    BertConfig,
    ChineseCLIPImageProcessor,
    ChineseCLIPProcessor,
    CLIPImageProcessor,
    CLIPProcessor,
    CLIPSegConfig,
    CLIPSegModel,
    CLIPSegProcessor,
    EfficientNetImageProcessor,
    MetaClip2Config,
    MetaClip2Model,
    PreTrainedModel,
    Siglip2Config,
    Siglip2ImageProcessor,
    Siglip2Model,
    Siglip2Processor,
    Siglip2Tokenizer,
    SiglipImageProcessor,
    SiglipProcessor,
    Tipsv2Config,
    Tipsv2ImageProcessor,
    Tipsv2Model,
    Tipsv2Processor,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
    VisionTextDualEncoderProcessor,
    ViTConfig,
    ViTImageProcessor,
)

from modeling_clip_vit import conversion
from modeling_clip_vit.data.tokenizer import train_tokenizer

from .peers import NARROW, VISION, WIDE, hf_chinese_clip, hf_clip, hf_siglip
from .peers import TEXTS as WORDS

DEPTH = {"num_hidden_layers": 2}
IMAGES = {**WIDE, **VISION, **DEPTH}
TEXTS = {**NARROW, **DEPTH, "vocab_size": 300, "max_position_embeddings": 70}
CLIP_TEXTS = {**TEXTS, "bos_token_id": 298, "eos_token_id": 299}


def metaclip_2() -> MetaClip2Model:
    # Published ones end a text with token 2, as XLM-R's tokenizer does.
    text = {**TEXTS, "eos_token_id": 2}
    return MetaClip2Model(
        MetaClip2Config(vision_config=IMAGES, text_config=text, projection_dim=24)
    )


def clipseg() -> CLIPSegModel:
    return CLIPSegModel(
        CLIPSegConfig(vision_config=IMAGES, text_config=CLIP_TEXTS, projection_dim=24)
    )


def siglip2() -> Siglip2Model:
    vision = {**WIDE, **DEPTH, "num_patches": 16, "patch_size": 16}
    text = {**TEXTS, "projection_size": WIDE["hidden_size"], "bos_token_id": 2, "eos_token_id": 1}
    return Siglip2Model(Siglip2Config(vision_config=vision, text_config=text))


def altclip() -> AltCLIPModel:
    text = {**TEXTS, "project_dim": 48}
    return AltCLIPModel(AltCLIPConfig(vision_config=IMAGES, text_config=text, projection_dim=24))


def align() -> AlignModel:
    vision = {
        "image_size": 32,
        "depth_coefficient": 1.0,
        "width_coefficient": 0.5,
        "kernel_sizes": [3, 5],
        "in_channels": [32, 16],
        "out_channels": [16, 48],
        "strides": [1, 2],
        "num_block_repeats": [1, 2],
        "expand_ratios": [1, 6],
        "hidden_dim": 24,
    }
    return AlignModel(AlignConfig(vision_config=vision, text_config=TEXTS, projection_dim=24))


def aimv2() -> Aimv2Model:
    return Aimv2Model(Aimv2Config(vision_config=IMAGES, text_config=CLIP_TEXTS, projection_dim=24))


def tipsv2() -> Tipsv2Model:
    return Tipsv2Model(Tipsv2Config(vision_config={**NARROW, **VISION, **DEPTH}, text_config=TEXTS))


def dual_encoder(vision: type = ViTConfig) -> VisionTextDualEncoderModel:
    config = VisionTextDualEncoderConfig.from_vision_text_configs(
        vision(**IMAGES), BertConfig(**TEXTS), projection_dim=24
    )
    return VisionTextDualEncoderModel(config)


#: Peer -> what makes a small one.
MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "hf_clip": lambda: hf_clip(2, WIDE),
    "hf_siglip": lambda: hf_siglip(2, WIDE),
    "hf_siglip2": siglip2,
    "hf_metaclip_2": metaclip_2,
    "hf_chinese_clip": lambda: hf_chinese_clip(2, WIDE),
    "hf_altclip": altclip,
    "hf_align": align,
    "hf_aimv2": aimv2,
    "hf_tipsv2": tipsv2,
    "hf_clipseg": clipseg,
    "hf_dual_encoder": dual_encoder,
}


CROP = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SQUARE = {"size": {"height": 32, "width": 32}}
CROPPED = {"crop_size": {"height": 32, "width": 32}}
#: Peer -> its processor's class, and its image processor for the small model.
PROCESSORS: dict[str, tuple[type, Callable[[], object]]] = {
    "hf_clip": (CLIPProcessor, lambda: CLIPImageProcessor(**CROP)),
    "hf_siglip": (SiglipProcessor, lambda: SiglipImageProcessor(**SQUARE)),
    "hf_siglip2": (
        Siglip2Processor,
        lambda: Siglip2ImageProcessor(patch_size=16, max_num_patches=16),
    ),
    "hf_metaclip_2": (CLIPProcessor, lambda: CLIPImageProcessor(**SQUARE, do_center_crop=False)),
    "hf_chinese_clip": (
        ChineseCLIPProcessor,
        lambda: ChineseCLIPImageProcessor(**SQUARE, **CROPPED),
    ),
    "hf_altclip": (AltCLIPProcessor, lambda: CLIPImageProcessor(**CROP)),
    "hf_align": (AlignProcessor, lambda: EfficientNetImageProcessor(**SQUARE)),
    "hf_aimv2": (CLIPProcessor, lambda: CLIPImageProcessor(**CROP)),
    "hf_tipsv2": (Tipsv2Processor, lambda: Tipsv2ImageProcessor(**SQUARE)),
    "hf_clipseg": (CLIPSegProcessor, lambda: ViTImageProcessor(**SQUARE)),
    "hf_dual_encoder": (VisionTextDualEncoderProcessor, lambda: ViTImageProcessor(**SQUARE)),
}


def make_processor(name: str):
    """A peer's processor for its small model, with a tokenizer of its own."""
    processor_class, make_image_processor = PROCESSORS[name]
    if name == "hf_siglip2":
        tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz"]
        vocab = {token: number for number, token in enumerate(tokens)}
        tokenizer = Siglip2Tokenizer(vocab=vocab, model_input_names=["input_ids"])
    else:
        tokenizer = train_tokenizer(WORDS, vocab_size=300, max_length=12)
    if name == "hf_siglip":
        tokenizer.model_input_names = ["input_ids"]
    return processor_class(make_image_processor(), tokenizer)


def converters(name: str) -> tuple[Callable, Callable]:
    """What converts a peer to ours, and back."""
    return getattr(conversion, f"from_{name}"), getattr(conversion, f"to_{name}")
