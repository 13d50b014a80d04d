"""Choose memory format, attention kernel and packing for the device."""

from typing import cast

import torch
from transformers import PreTrainedModel

from ..configuration_clip_vit import (
    ClipVitTextConfig,
    ClipVitVisionConfig,
    TowerConfig,
    is_foreign,
)
from ..utils.errors import UserError
from .arguments import TrainArguments

#: On a CPU in bfloat16, the backward pass of torch's fused attention is slower than that of eager
#: attention up to about this many tokens: 9 times slower at 16 tokens, as fast at 256.
SHORT_SEQUENCE = 256
#: Types of devices on which packed texts were measured to be faster than padded ones.
PACKING_DEVICES = ("cpu", "cuda")


def choose_kernels(
    model: PreTrainedModel,
    args: TrainArguments,
    device: torch.device,
    precision: str,
    is_sharded: bool = False,
):
    """Set the memory format, and the attention kernel unless the arguments name one.

    Convolution kernels are stored with channels last, which is faster on CPUs and GPUs, unless FSDP
    shards them, which takes contiguous weights only. Towers of another model type keep
    Transformers' choice of attention.

    Args:
        model: a CLIP or a classifier.
        args: of the run.
        device: to train on.
        precision: `bf16`, `fp16` or `no`.
        is_sharded: whether FSDP will shard the weights.
    """
    if not is_sharded:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-arg]
    is_slow_fused = device.type == "cpu" and precision == "bf16"
    # NNCF quantises the operations of a kernel: the fewer they are, the less precision is lost.
    is_static = args.quantization.quantization_mode == "static"
    if args.model.attn_implementation is not None or not is_slow_fused or is_static:
        return
    for name in ("vision_model", "text_model"):
        tower = getattr(model, name, None)
        if tower is not None and not is_foreign(tower.config) and is_short(tower.config):
            tower.set_attn_implementation("eager")


def is_short(config: TowerConfig) -> bool:
    """Whether one of our towers has sequences of at most `SHORT_SEQUENCE` tokens."""
    # Not isinstance: the configuration may come from a checkpoint's copy of the class.
    if config.model_type == ClipVitTextConfig.model_type:
        return cast(ClipVitTextConfig, config).max_position_embeddings <= SHORT_SEQUENCE
    config = cast(ClipVitVisionConfig, config)
    return config.grid_size**2 + config.num_prefix_tokens <= SHORT_SEQUENCE


def choose_packing(args: TrainArguments, text_tower: PreTrainedModel, device_type: str) -> bool:
    """Whether to pack several texts into a row.

    Raises:
        UserError: `pack_texts` is true, but not supported.
    """
    pack_texts = args.model.pack_texts
    kernel = text_tower.config._attn_implementation
    reasons = {
        "a text tower of another model type": is_foreign(text_tower.config),
        f"attn_implementation={kernel!r}": kernel not in ("eager", "sdpa"),
        "torch_compile": args.model.torch_compile,
        "quantization_mode='static'": args.quantization.quantization_mode == "static",
    }
    obstacle = next((reason for reason, holds in reasons.items() if holds), None)
    if pack_texts is True and obstacle:
        raise UserError(f"pack_texts=true is not allowed with {obstacle}: leave it at auto")
    if pack_texts == "auto":
        return obstacle is None and device_type in PACKING_DEVICES
    return bool(pack_texts)
