"""Weights of other implementations into this one and back, without loss."""

from .hf_chinese_clip import from_hf_chinese_clip
from .hf_clip import from_hf_clip, to_hf_clip
from .hf_siglip import from_hf_siglip, to_hf_siglip
from .open_clip import from_open_clip, to_open_clip
from .timm_vit import from_timm_vit, to_timm_vit
from .vit_pytorch import from_vit_pytorch
from .weights import ConversionError

__all__ = [
    "ConversionError",
    "from_hf_chinese_clip",
    "from_hf_clip",
    "from_hf_siglip",
    "from_open_clip",
    "from_timm_vit",
    "from_vit_pytorch",
    "to_hf_clip",
    "to_hf_siglip",
    "to_open_clip",
    "to_timm_vit",
]
