"""The models of open_clip for conversion_coverage.py: each of its configurations, small.

Depth, width and vocabulary are cut; kinds of layers, patches, sizes of heads and of images stay.
"""

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
from modeling_clip_vit.conversion.trial_inputs import image_inputs, text_inputs
from modeling_clip_vit.conversion.verify import embed, verify

VOCAB_SIZE = 1000
HEADS = 2
#: How an architecture of timm becomes small, by the beginning of its name. ViTamin's stages and
#: blocks have widths that fit together, so that only its depth is cut.
CUTS = {
    "convnext": {"depths": (1, 1, 2, 1), "dims": (16, 32, 64, 128)},
    "swin": {"depths": (2, 1, 1, 1), "embed_dim": 32, "num_heads": (1, 2, 4, 8)},
    "fastvit_mci3": {"layers": (1,) * 5, "embed_dims": (16, 32, 64, 128, 256)},
    "fastvit_mci4": {"layers": (1,) * 5, "embed_dims": (16, 32, 64, 128, 256)},
    "fastvit": {"layers": (1,) * 4, "embed_dims": (16, 32, 64, 128)},
    "vit_base_mci": {"depth": 2},
    "vitamin": {"depth": 2},
}
ROBERTA = {
    "hidden_size": 128,
    "num_attention_heads": HEADS,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "vocab_size": VOCAB_SIZE,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
MT5 = MT5Config(
    num_layers=2, vocab_size=VOCAB_SIZE, d_kv=64, d_model=128, d_ff=320, num_heads=HEADS
)
NLLB = M2M100Config(
    vocab_size=VOCAB_SIZE,
    d_model=128,
    encoder_layers=2,
    encoder_attention_heads=HEADS,
    encoder_ffn_dim=512,
    decoder_layers=1,
    decoder_attention_heads=HEADS,
    decoder_ffn_dim=512,
)
#: The text towers of Transformers that open_clip takes from the Hub, small.
ENCODERS = {
    "roberta-base": RobertaConfig(**ROBERTA),
    "xlm-roberta-base": XLMRobertaConfig(**ROBERTA),
    "xlm-roberta-large": XLMRobertaConfig(**ROBERTA),
    "google/mt5-base": MT5,
    "google/mt5-xl": MT5,
    "facebook/nllb-200-distilled-600M": NLLB,
    "facebook/nllb-200-distilled-1.3B": NLLB,
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
        spread = least_spread(peer, config)
        if spread < 1e-3:
            return {"reason": f"its random images or texts look the same ({spread:.0e} apart)"}
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


def least_spread(peer, config) -> float:
    """How far apart the closest of the images or texts are that a conversion is verified with."""
    embeds = embed(peer, image_inputs(config.vision_config), text_inputs(config.text_config))
    distances = [torch.pdist(embeds[name]).min() for name in ("image_embeds", "text_embeds")]
    return float(min(distances))


def largest(differences: dict[str, float]) -> float:
    """The largest difference of an embedding."""
    return max(differences["image_embeds"], differences["text_embeds"])


def build(name: str, folder: Path):
    """The model of a configuration, small, with random weights in every layer."""
    config = copy.deepcopy(open_clip.get_model_config(name))
    vision, text = config["vision_cfg"], config["text_cfg"]
    config["embed_dim"] = cut_images(vision)
    is_custom = config.pop("custom_text", False)
    if "hf_model_name" in text:
        is_custom = True
        ENCODERS[text["hf_model_name"]].save_pretrained(folder)
        text |= {"hf_model_name": str(folder), "hf_model_pretrained": False}
    else:
        sizes = {"width": config["embed_dim"], "heads": HEADS, "layers": 2}
        text |= {**sizes, "vocab_size": VOCAB_SIZE}
    if "multimodal_cfg" in config:
        config["multimodal_cfg"] |= {"width": config["embed_dim"], "heads": HEADS, "layers": 2}
        model_class = open_clip.CoCa
    else:
        model_class = open_clip.CustomTextCLIP if is_custom else open_clip.CLIP
    peer = stir(model_class(**config))
    set_statistics(peer.visual)
    return peer.eval()


def set_statistics(visual):
    """Give batch norms the statistics of random images: with others, all images look the same."""
    norms = [part for part in visual.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    if norms:
        for norm in norms:
            norm.momentum = 1.0
        visual.train()
        size = visual.image_size
        size = size if isinstance(size, int) else size[0]
        visual(torch.randn(8, 3, size, size, generator=torch.Generator().manual_seed(1)))


def cut_images(vision: dict) -> int:
    """Make an image tower small; returns a size for the joint space that goes with it."""
    if "timm_model_name" in vision:
        vision["timm_model_name"], size = cut_architecture(vision["timm_model_name"])
        vision["timm_model_pretrained"] = False
        return size
    if isinstance(vision["layers"], list):
        vision["layers"] = [1, 1, 1, 1]
        cut_resnet(vision.get("width", 64))
        return 128
    head_width = vision.get("head_width", 64)
    vision |= {"layers": 2, "width": HEADS * head_width}
    return HEADS * head_width


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


def cut_architecture(name: str) -> tuple[str, int]:
    """Register a small variant of an architecture of timm; returns its name and a size for it."""
    cut, size = f"{name}_cut", 128
    arguments = next((value for start, value in CUTS.items() if name.startswith(start)), None)
    if arguments is None:
        with torch.device("meta"):
            size = HEADS * head_size(timm.create_model(name))
        arguments = {"depth": 2, "embed_dim": size, "num_heads": HEADS}
    if not timm.is_model(cut):
        register(cut, name, arguments)
    return cut, size


def head_size(vit) -> int:
    """The size of a head of a ViT of timm."""
    return vit.embed_dim // vit.blocks[0].attn.num_heads


def cut_resnet(width: int):
    """Register a small variant of CLIP's ResNet of this width."""
    name = f"resnet_cut{width}_clip"
    if timm.is_model(name):
        return
    blocks = tuple(
        ByoBlockCfg(type="bottle", d=1, c=256 * 2**stage, s=1 if stage == 0 else 2, br=0.25)
        for stage in range(4)
    )
    names = {64: "50", 80: "50x4", 96: "50x16", 128: "50x64"}
    register(name, f"resnet{names[width]}_clip", {"blocks": blocks})


def register(name: str, original: str, arguments: dict):
    """Register an architecture of timm that is another one with these arguments."""
    create = timm.models.model_entrypoint(original)

    def entry(pretrained: bool = False, **kwargs):
        model = create(pretrained=pretrained, **{**arguments, **kwargs})
        model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "architecture": name}
        return model

    entry.__name__ = name
    register_model(entry)
