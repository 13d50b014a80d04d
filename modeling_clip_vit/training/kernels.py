"""Choose memory format and attention kernel by what the device does fast."""

import torch
from transformers import PreTrainedModel

from ..configuration_clip_vit import is_foreign
from ..utils.errors import UserError
from .arguments import TrainArguments

#: On a CPU in bfloat16, torch's fused attention goes backward more slowly than the written-out
#: product, up to about this many tokens: 9 times so at 16 tokens, as fast at 256.
SHORT_SEQUENCE = 256


def choose_kernels(
    model: PreTrainedModel, args: TrainArguments, device: torch.device, precision: str
):
    """Set memory format and attention kernel where nobody has named one.

    Convolution kernels are stored with channels last, as fast kernels on CPU and GPU want them.
    Towers of another model type keep Transformers' choice of attention.

    Args:
        model: a CLIP or a classifier.
        args: which may name an attention kernel.
        device: what it trains on.
        precision: `bf16`, `fp16` or `no`.
    """
    model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    is_slow_fused = device.type == "cpu" and precision == "bf16"
    # NNCF puts its rounding around the operations of a kernel: fewer of them lose less.
    is_static = args.quantization.quantization_mode == "static"
    if args.model.attn_implementation is not None or not is_slow_fused or is_static:
        return
    for name in ("vision_model", "text_model"):
        tower = getattr(model, name, None)
        if tower is not None and not is_foreign(tower.config) and is_short(tower.config):
            tower.set_attn_implementation("eager")


def is_short(config) -> bool:
    """Whether the sequences of one of our towers are short ones."""
    if hasattr(config, "max_position_embeddings"):
        return config.max_position_embeddings <= SHORT_SEQUENCE
    return config.grid_size**2 + config.num_prefix_tokens <= SHORT_SEQUENCE


def choose_packing(args: TrainArguments, text_tower: PreTrainedModel, device_type: str) -> bool:
    """Whether texts share rows.

    Raises:
        UserError: packing is requested where it is not supported.
    """
    wanted = args.model.pack_texts
    kernel = text_tower.config._attn_implementation
    reasons = {
        "a text tower of another model type": is_foreign(text_tower.config),
        f"attn_implementation={kernel!r}": kernel not in ("eager", "sdpa"),
        "torch_compile": args.model.torch_compile,
        "quantization_mode='static'": args.quantization.quantization_mode == "static",
    }
    against = next((reason for reason, holds in reasons.items() if holds), None)
    if wanted is True and against:
        raise UserError(f"pack_texts=true is not allowed with {against}: leave it at auto")
    if wanted == "auto":
        return against is None and device_type == "cpu"
    return bool(wanted)
