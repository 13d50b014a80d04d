"""The models of open_clip for conversion_coverage.py: each of its configurations, cut."""

import copy
import tempfile
from pathlib import Path

import open_clip
import timm
import torch
from timm.models import register_model
from timm.models.byobnet import ByoBlockCfg
from transformers import M2M100Config, MT5Config, RobertaConfig, XLMRobertaConfig

from modeling_clip_vit import ClipVitModel
from modeling_clip_vit.conversion import ConversionError, from_open_clip, to_open_clip
from modeling_clip_vit.conversion.verify import verify

VOCAB_SIZE = 1000
#: How an architecture of timm becomes shallow, by the beginning of its name.
CUTS = {
    "convnext": {"depths": (1, 1, 2, 1)},
    "swin": {"depths": (2, 1, 1, 1)},
    "fastvit_mci3": {"layers": (1, 1, 1, 1, 1)},
    "fastvit_mci4": {"layers": (1, 1, 1, 1, 1)},
    "fastvit": {"layers": (1, 1, 1, 1)},
    "": {"depth": 2},
}
LARGE = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 4096}
ROBERTA = {
    "num_hidden_layers": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
MT5 = {"num_layers": 2, "vocab_size": VOCAB_SIZE, "d_kv": 64}
NLLB = {"encoder_layers": 2, "decoder_layers": 1, "vocab_size": VOCAB_SIZE, "d_model": 1024}
#: The text towers of Transformers that open_clip takes from the Hub, shallow.
ENCODERS = {
    "roberta-base": RobertaConfig(**ROBERTA),
    "xlm-roberta-base": XLMRobertaConfig(**ROBERTA),
    "xlm-roberta-large": XLMRobertaConfig(**ROBERTA, **LARGE),
    "google/mt5-base": MT5Config(**MT5, d_model=768, d_ff=2048, num_heads=12),
    "google/mt5-xl": MT5Config(**MT5, d_model=2048, d_ff=5120, num_heads=32),
    "facebook/nllb-200-distilled-600M": M2M100Config(**NLLB, encoder_ffn_dim=4096),
    "facebook/nllb-200-distilled-1.3B": M2M100Config(**NLLB, encoder_ffn_dim=8192),
}


def list_models() -> list[str]:
    """The names of all configurations."""
    return open_clip.list_models()


def check(name: str) -> dict:
    """Convert a model there and back, and save and load it: the fields of its row."""
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        peer = build(name, Path(folder))
        try:
            ours = from_open_clip(peer)
        except ConversionError as reason:
            return {"reason": str(reason)}
        config = ours.config
        row = {
            "image": config.vision_config.model_type,
            "text": config.text_config.model_type,
            "difference": largest(verify(peer, ours, config)),
        }
        try:
            back = to_open_clip(ours)
            row["back"] = largest(verify(ours, back, config))
            del back
        except ConversionError as reason:
            row["only_read"] = str(reason)
        del peer
        ours.save_pretrained(folder)
        loaded = ClipVitModel.from_pretrained(folder)
        row["loaded"] = largest(verify(ours, loaded, config))
    return row


def largest(differences: dict[str, float]) -> float:
    """The largest difference of an embedding."""
    return max(differences["image_embeds"], differences["text_embeds"])


def build(name: str, folder: Path):
    """The model of a configuration, shallow, with random weights in every layer."""
    config = copy.deepcopy(open_clip.get_model_config(name))
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision:
        vision["timm_model_name"] = cut_architecture(vision["timm_model_name"])
        vision["timm_model_pretrained"] = False
    elif isinstance(vision["layers"], list):
        vision["layers"] = [1, 1, 1, 1]
        cut_resnet(vision.get("width", 64))
    else:
        vision["layers"] = 2
    is_custom = config.pop("custom_text", False)
    if "hf_model_name" in text:
        is_custom = True
        ENCODERS[text["hf_model_name"]].save_pretrained(folder)
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    else:
        text |= {"layers": 2, "vocab_size": VOCAB_SIZE}
    if "multimodal_cfg" in config:
        config["multimodal_cfg"]["layers"] = 2
        model_class = open_clip.CoCa
    else:
        model_class = open_clip.CustomTextCLIP if is_custom else open_clip.CLIP
    return stir(model_class(**config))


def stir(model):
    """Random numbers in every weight and statistic: what starts as 0 or 1 would hide a mix-up."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            if name.endswith("running_var"):
                tensor.mul_((0.1 * noise).exp())
            else:
                tensor.add_(0.02 * noise)
    return model.eval()


def cut_architecture(name: str) -> str:
    """Register a shallow variant of an architecture of timm; returns its name."""
    cut = f"{name}_cut"
    if timm.is_model(cut):
        return cut
    arguments = next(value for start, value in CUTS.items() if name.startswith(start))
    return register(cut, name, arguments)


def cut_resnet(width: int):
    """Register a shallow variant of CLIP's ResNet of this width."""
    name = f"resnet_cut{width}_clip"
    if timm.is_model(name):
        return
    blocks = tuple(
        ByoBlockCfg(type="bottle", d=1, c=4 * width * 2**stage, s=1 if stage == 0 else 2, br=0.25)
        for stage in range(4)
    )
    names = {64: "50", 80: "50x4", 96: "50x16", 128: "50x64"}
    register(name, f"resnet{names[width]}_clip", {"blocks": blocks})


def register(name: str, original: str, arguments: dict) -> str:
    """Register an architecture of timm that is another one with these arguments."""
    create = timm.models.model_entrypoint(original)

    def entry(pretrained: bool = False, **kwargs):
        model = create(pretrained=pretrained, **{**arguments, **kwargs})
        model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "architecture": name}
        return model

    entry.__name__ = name
    register_model(entry)
    return name
