"""Normalisation layers, chosen by `config.norm_type`.

To add one: write (or import) the layer, and give it a line in `NORM_LAYERS`.
"""

from torch import nn

#: `norm_type` -> a layer built with `(size, eps=...)` that normalises the last dimension.
#: layernorm: Ba et al. (2016), section 3. rmsnorm: Zhang and Sennrich (2019), section 4.
NORM_LAYERS: dict[str, type[nn.Module]] = {
    "layernorm": nn.LayerNorm,
    "rmsnorm": nn.RMSNorm,
}


def build_norm(config, size: int | None = None) -> nn.Module:
    """Build the normalisation layer that `config.norm_type` names.

    Args:
        config: a tower's configuration (`norm_type`, `layer_norm_eps`, `hidden_size`).
        size: number of features; `config.hidden_size` unless given.

    Returns:
        A module from (..., size) to (..., size).
    """
    return NORM_LAYERS[config.norm_type](size or config.hidden_size, eps=config.layer_norm_eps)
