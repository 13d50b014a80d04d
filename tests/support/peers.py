"""Small models and checkpoints of other implementations, and how ours are compared with them."""

import json
from pathlib import Path

import open_clip
import timm
import torch
from safetensors.torch import save_file
from timm.models import build_model_with_cfg, register_model, save_for_hf
from timm.models.byobnet import ByoBlockCfg
from transformers import (
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedModel,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from modeling_clip_vit.data.tokenizer import train_tokenizer

from .pictures import COLORS

WIDE = {"hidden_size": 96, "intermediate_size": 160, "num_attention_heads": 3}
NARROW = {"hidden_size": 32, "intermediate_size": 128, "num_attention_heads": 2}
VISION = {"image_size": 32, "patch_size": 8}


def stir(model):
    """Random numbers in every weight: what starts as 0 or 1 would hide a mix-up."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
        for module in model.modules():
            # Transformers sets this row to 0 when it loads a Chinese-CLIP, whatever is saved.
            if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
                module.weight[module.padding_idx] = 0
    return model.eval()


def make_ids(vocab_size: int, length: int = 12) -> torch.Tensor:
    """Texts that end in the largest id, as CLIP's do, without padding after it."""
    ids = torch.randint(3, vocab_size - 1, (3, length), generator=torch.Generator().manual_seed(1))
    ids[:, -1] = vocab_size - 1
    return ids


def hf_clip(depth: int, sizes: dict) -> CLIPModel:
    return CLIPModel(
        CLIPConfig(
            vision_config={**sizes, **VISION, "num_hidden_layers": depth},
            text_config={
                **NARROW,
                "num_hidden_layers": 2,
                "vocab_size": 300,
                "bos_token_id": 298,
                "eos_token_id": 299,
            },
            projection_dim=24,
        )
    )


def hf_chinese_clip(depth: int, sizes: dict) -> ChineseCLIPModel:
    return ChineseCLIPModel(
        ChineseCLIPConfig(
            vision_config={**sizes, **VISION, "num_hidden_layers": depth},
            text_config={
                **sizes,
                "num_hidden_layers": 2,
                "vocab_size": 300,
                "max_position_embeddings": 20,
            },
            projection_dim=24,
        )
    )


def hf_siglip(depth: int, sizes: dict) -> SiglipModel:
    return SiglipModel(
        SiglipConfig(
            vision_config={**sizes, **VISION, "num_hidden_layers": depth},
            text_config={
                **NARROW,
                "num_hidden_layers": 2,
                "vocab_size": 300,
                "max_position_embeddings": 12,
                "projection_size": sizes["hidden_size"],
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
        )
    )


TEXT_TOWER = {"context_length": 12, "vocab_size": 300, "width": 32, "heads": 2, "layers": 2}


def open_clip_model(depth: int, sizes: dict, quick_gelu: bool = False):
    heads = sizes["num_attention_heads"]
    vision = {
        "layers": depth,
        "width": sizes["hidden_size"],
        "head_width": sizes["hidden_size"] // heads,
        "mlp_ratio": sizes["intermediate_size"] / sizes["hidden_size"],
        **VISION,
    }
    return open_clip.CLIP(24, vision, TEXT_TOWER, quick_gelu=quick_gelu)


def siglip_trunk(name: str, pretrained: bool, kwargs: dict, **sizes):
    fixed = {"img_size": 32, "patch_size": 8, "class_token": False, "global_pool": "map"}
    return build_model_with_cfg(
        timm.models.VisionTransformer, name, pretrained, **{**fixed, **sizes, **kwargs}
    )


# open_clip builds image towers of timm by name alone: these are small enough for a test.
@register_model
def vit_narrow_patch8_siglip_32(pretrained=False, **kwargs):
    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    return siglip_trunk("vit_narrow_patch8_siglip_32", pretrained, kwargs, **sizes)


@register_model
def vit_wide_patch8_siglip_32(pretrained=False, **kwargs):
    sizes = {"embed_dim": 48, "depth": 3, "num_heads": 3, "mlp_ratio": 3.5}
    return siglip_trunk("vit_wide_patch8_siglip_32", pretrained, kwargs, **sizes)


@register_model
def narrow_eva(pretrained=False, **kwargs):
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    return small_architecture("narrow_eva", "eva02_tiny_patch14_224", {**sizes, **kwargs})


@register_model
def narrow_convnext(pretrained=False, **kwargs):
    sizes = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 64)}
    return small_architecture("narrow_convnext", "convnext_atto", {**sizes, **kwargs})


@register_model
def narrow_fastvit(pretrained=False, **kwargs):
    sizes = {"layers": (1, 1, 1, 1), "embed_dims": (8, 8, 16, 32)}
    return small_architecture("narrow_fastvit", "fastvit_mci0", {**sizes, **kwargs})


@register_model
def resnet_narrow_clip(pretrained=False, **kwargs):
    blocks = tuple(
        ByoBlockCfg(type="bottle", d=1, c=64 * 2**stage, s=1 if stage == 0 else 2, br=0.25)
        for stage in range(4)
    )
    sizes = {"stem_chs": (8, 8, 16), "blocks": blocks}
    return small_architecture("resnet_narrow_clip", "resnet50_clip", {**sizes, **kwargs})


def small_architecture(name: str, original: str, arguments: dict):
    """An architecture of timm with other arguments, under a name of its own."""
    model = timm.create_model(original, **arguments)
    model.pretrained_cfg = model.default_cfg = {**model.pretrained_cfg, "architecture": name}
    return model


def open_clip_siglip(trunk: str, size: int, is_second: bool = False):
    """SigLIP's type; the second version has another activation in its text tower."""
    vision = {"timm_model_name": trunk, "timm_pool": "map", "timm_proj": "none", "image_size": 32}
    text = {
        **TEXT_TOWER,
        "no_causal_mask": True,
        "proj_bias": True,
        "pool_type": "last",
        "norm_kwargs": {"eps": 1e-6},
        **({"act_kwargs": {"approximate": "tanh"}} if is_second else {}),
    }
    return open_clip.CustomTextCLIP(size, vision, text, init_logit_bias=-10)


def logits_of(model, images, ids, **text) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Normalised embeddings and the logits that a model makes of them."""
    if isinstance(model, PreTrainedModel):
        outputs = model(pixel_values=images, input_ids=ids, **text)
        return outputs.image_embeds, outputs.text_embeds, outputs.logits_per_image
    image_embeds = model.encode_image(images, normalize=True)
    text_embeds = model.encode_text(ids, normalize=True)
    logits = model.logit_scale.exp() * image_embeds @ text_embeds.t()
    return image_embeds, text_embeds, logits + (0 if model.logit_bias is None else model.logit_bias)


def assert_same_outputs(ours, peer, images, ids, **text):
    """Both models give the same embeddings and logits."""
    mine, theirs = logits_of(ours, images, ids, **text), logits_of(peer, images, ids, **text)
    for a, b in zip(mine[:2], theirs[:2], strict=True):
        assert (a - b).abs().max() <= 1e-5
    assert (mine[2] - theirs[2]).abs().max() <= 1e-5 * theirs[2].abs().max()
    return mine[2], theirs[2]


def assert_same_gradient(ours: torch.nn.Parameter, theirs: torch.nn.Parameter):
    """Weights that hold the same numbers, perhaps in other shapes, have the same gradient."""
    difference = ours.grad.flatten() - theirs.grad.flatten()
    assert difference.norm() <= 1e-4 * theirs.grad.norm()


def assert_bit_equal(again, before, left_out: str = " "):
    """All weights of a model came back as they were, but for names that start with `left_out`."""
    state, names = again.state_dict(), dict(before.named_parameters())
    assert set(dict(again.named_parameters())) >= {n for n in names if not n.startswith(left_out)}
    for name, weight in names.items():
        if not name.startswith(left_out):
            assert torch.equal(state[name], weight), name


TEXTS = [f"a {name} square {chinese}方块" for name, chinese in COLORS.items()]


def save_hf_clip(folder: Path):
    """CLIP: an attention mask, padding to the longest, a centre crop."""
    model = stir(hf_clip(2, NARROW))
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, max_length=77)
    model.config.text_config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    sizes = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPProcessor(CLIPImageProcessor(**sizes), tokenizer).save_pretrained(folder)


def save_hf_siglip(folder: Path):
    """SigLIP: no attention mask, padding to full length, a logit bias."""
    stir(hf_siglip(2, NARROW)).save_pretrained(folder)
    tokenizer = train_tokenizer(TEXTS, vocab_size=300, max_length=12)
    tokenizer.model_input_names = ["input_ids"]
    image_processor = SiglipImageProcessor(size={"height": 32, "width": 32})
    SiglipProcessor(image_processor, tokenizer).save_pretrained(folder)


def save_open_clip(folder: Path):
    """CLIP of open_clip, with CLIP's own tokenizer, which is in no file."""
    vision = {"layers": 2, "width": 32, "head_width": 16, **VISION}
    fields = {"embed_dim": 24, "vision_cfg": vision, "text_cfg": {**TEXT_TOWER, **CLIP_TEXTS}}
    save_open_clip_folder(folder, stir(open_clip.CLIP(**fields)), fields, {})


def save_open_clip_siglip(folder: Path):
    """SigLIP of open_clip: squashed images, and texts of full length without a mask."""
    trunk = "vit_narrow_patch8_siglip_32"
    vision = {"timm_model_name": trunk, "timm_pool": "map", "timm_proj": "none", "image_size": 32}
    text = {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    fields = {
        "embed_dim": 32,
        "vision_cfg": vision,
        "text_cfg": {**TEXT_TOWER, **CLIP_TEXTS, **text, "norm_kwargs": {"eps": 1e-6}},
        "init_logit_bias": -10,
    }
    peer = stir(open_clip.CustomTextCLIP(**fields))
    half = [0.5, 0.5, 0.5]
    preprocess = {"mean": half, "std": half, "interpolation": "bicubic", "resize_mode": "squash"}
    save_open_clip_folder(folder, peer, {**fields, "custom_text": True}, preprocess)


#: The vocabulary of CLIP's own tokenizer.
CLIP_TEXTS = {"vocab_size": 49408, "context_length": 16}


def save_open_clip_folder(folder: Path, peer, fields: dict, preprocess: dict):
    """A folder as open_clip shares its models on the Hub."""
    folder.mkdir()
    content = {"model_cfg": fields, "preprocess_cfg": preprocess}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    save_file(peer.state_dict(), folder / "open_clip_model.safetensors")


def save_timm(folder: Path, **fields):
    """A ViT of timm without a class head."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2}
    model = stir(timm.create_model("vit_base_patch16_224", num_classes=0, **{**sizes, **fields}))
    model.pretrained_cfg |= {"input_size": (3, 32, 32), "crop_pct": 0.8}
    save_for_hf(model, str(folder), model_args={**sizes, **fields}, safe_serialization=True)
