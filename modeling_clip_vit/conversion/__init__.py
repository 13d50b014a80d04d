"""Weights of other implementations into this one and back, without loss."""

from .hf_aimv2 import from_hf_aimv2, to_hf_aimv2
from .hf_align import from_hf_align, to_hf_align
from .hf_altclip import from_hf_altclip, to_hf_altclip
from .hf_chinese_clip import from_hf_chinese_clip, to_hf_chinese_clip
from .hf_clip import from_hf_clip, to_hf_clip
from .hf_clipseg import from_hf_clipseg, to_hf_clipseg
from .hf_dual_encoder import from_hf_dual_encoder, to_hf_dual_encoder
from .hf_metaclip_2 import from_hf_metaclip_2, to_hf_metaclip_2
from .hf_siglip import from_hf_siglip, to_hf_siglip
from .hf_siglip2 import from_hf_siglip2, to_hf_siglip2
from .hf_tipsv2 import from_hf_tipsv2, to_hf_tipsv2
from .open_clip import from_open_clip, to_open_clip
from .timm_models import from_timm, to_timm
from .timm_vit import from_timm_vit, to_timm_vit
from .vit_pytorch import from_vit_pytorch
from .weights import ConversionError

__all__ = [
    "ConversionError",
    "from_hf_aimv2",
    "from_hf_align",
    "from_hf_altclip",
    "from_hf_chinese_clip",
    "from_hf_clip",
    "from_hf_clipseg",
    "from_hf_dual_encoder",
    "from_hf_metaclip_2",
    "from_hf_siglip",
    "from_hf_siglip2",
    "from_hf_tipsv2",
    "from_open_clip",
    "from_timm",
    "from_timm_vit",
    "from_vit_pytorch",
    "to_hf_aimv2",
    "to_hf_align",
    "to_hf_altclip",
    "to_hf_chinese_clip",
    "to_hf_clip",
    "to_hf_clipseg",
    "to_hf_dual_encoder",
    "to_hf_metaclip_2",
    "to_hf_siglip",
    "to_hf_siglip2",
    "to_hf_tipsv2",
    "to_open_clip",
    "to_timm",
    "to_timm_vit",
]
