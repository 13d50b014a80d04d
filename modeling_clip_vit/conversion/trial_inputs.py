"""Random images and texts that a model and its conversion are both run on."""

from typing import Any

import torch

from ..configuration_clip_vit import is_foreign

#: Longest text for a tower of another type: some of those need a few positions for themselves.
LONGEST = 64


def image_inputs(config: Any, count: int = 4) -> dict[str, torch.Tensor]:
    """Random images as the image tower of a configuration takes them: inputs by name.

    Args:
        config: of an image tower.
        count: number of images.
    """
    generator = torch.Generator().manual_seed(0)
    if hasattr(config, "num_patches"):
        return patch_inputs(config, count, generator)
    size = config.image_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (count, config.num_channels, height, width)
    return {"pixel_values": torch.randn(shape, generator=generator)}


def patch_inputs(config: Any, count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random images of different shapes, as patches with padding (Siglip2ImageProcessor's)."""
    side = int(config.num_patches**0.5)
    shapes_B2 = torch.tensor([(max(side - i, 1), side) for i in range(count)])
    width = config.num_channels * config.patch_size**2
    patches_BLD = torch.randn(count, config.num_patches, width, generator=generator)
    mask_BL = torch.arange(config.num_patches) < shapes_B2.prod(dim=1, keepdim=True)
    return {
        "pixel_values": patches_BLD,
        "pixel_attention_mask": mask_BL.long(),
        "spatial_shapes": shapes_B2,
    }


def text_inputs(config: Any, count: int = 4) -> dict[str, torch.Tensor]:
    """Random texts without padding for the text tower of a configuration: inputs by name."""
    generator = torch.Generator().manual_seed(1)
    longest = getattr(config, "max_position_embeddings", None) or LONGEST
    if is_foreign(config):
        longest = min(longest // 2, LONGEST)
    ids_BL = torch.randint(0, config.vocab_size - 1, (count, longest), generator=generator)
    end, pad = (getattr(config, f"{name}_token_id", None) for name in ("eos", "pad"))
    if end is not None:
        ids_BL[ids_BL == end] = 0 if end else 1
        ids_BL[:, -1] = end
    if is_foreign(config) and pad is not None and pad != end:
        # Where there is no mask, such a tower may take this token for padding.
        ids_BL[ids_BL == pad] = pad + 1
    return {"input_ids": ids_BL}
