"""What all models share: initial weights, and how they are saved and loaded."""

from typing import Any

import torch
from timm.layers import LayerScale
from torch import nn
from transformers import initialization as init
from transformers.modeling_utils import PreTrainedModel

from .attention import ClipVitAttention
from .embeddings import ClipVitVisionEmbeddings, ConvStemPatchEmbedding
from .encoder import ClipVitEncoderLayer
from .normalization import BatchNorm, DynamicTanh
from .pooling import ClipVitAttentionPooling
from .projection import ClipVitSimilarity


class ClipVitPreTrainedModel(PreTrainedModel):
    """Initial weights, loading and saving for every model below.

    A saved folder holds, beside weights and configuration, the files of this model, so that the
    Auto classes load it with `trust_remote_code=True` where this package is not installed.
    """

    base_model_prefix = "clip_vit"
    input_modalities = ["image", "text"]
    supports_gradient_checkpointing = True
    _no_split_modules = [
        "ClipVitVisionEmbeddings",
        "ClipVitTextEmbeddings",
        "ClipVitEncoderLayer",
        "ClipVitAttentionPooling",
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": ClipVitEncoderLayer, "attentions": ClipVitAttention}
    _auto_class = "AutoModel"
    #: Auto classes that load this model's folder: name -> "file.class"; AutoModel alone when empty.
    _auto_classes: dict[str, str] = {}

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save as `PreTrainedModel.save_pretrained` does, for all the Auto classes."""
        # Every name, whichever of the Auto classes this one was loaded by.
        own = f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"
        self.config.auto_map = dict(self._auto_classes or {"AutoModel": own})
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ConvStemPatchEmbedding):
            for layer in module.stem:
                if isinstance(layer, nn.Conv2d):
                    init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, ClipVitVisionEmbeddings):
            for name in ("cls_token", "register_tokens"):
                if hasattr(module, name):
                    init.normal_(getattr(module, name), std=self.config.initializer_range)
        elif isinstance(module, ClipVitAttentionPooling):
            init.normal_(module.probe, std=module.probe.numel() ** -0.5)
        elif isinstance(module, ClipVitAttention):
            for name in module.bias_sizes:
                if hasattr(module, name):
                    init.zeros_(getattr(module, name))
        elif isinstance(module, LayerScale):
            init.constant_(module.gamma, module.init_values)
        elif isinstance(module, DynamicTanh):
            init.constant_(module.alpha, module.alpha_init_value)
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, BatchNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
            init.zeros_(module.running_mean)
            init.ones_(module.running_var)
        elif isinstance(module, ClipVitEncoderLayer):
            # Each block adds to the residual stream twice: this keeps its variance in depth
            # (Radford et al., 2019, section 2.3).
            config = module.attention.config
            std = config.initializer_range * (2 * config.num_hidden_layers) ** -0.5
            init.normal_(module.attention.out_proj.weight, std=std)
            init.normal_(module.feed_forward.fc2.weight, std=std)
        elif isinstance(module, ClipVitSimilarity):
            init.constant_(module.logit_scale, module.config.logit_scale_init_value)
            if module.config.logit_bias_init_value is not None:
                init.constant_(module.logit_bias, module.config.logit_bias_init_value)
        for name in ("visual_projection", "text_projection", "classifier"):
            for layer in getattr(module, name, nn.Identity()).modules():
                if isinstance(layer, nn.Linear):
                    init.normal_(layer.weight, std=layer.in_features**-0.5)


def load_whole(model_class, path: str, **kwargs) -> Any:
    """`model_class.from_pretrained(path, **kwargs)`, where a warning is not enough.

    Transformers warns of weights that a checkpoint lacks and starts them at random.

    Raises:
        ValueError: the checkpoint lacks weights, or has others than the model; they are named.
    """
    model, found = load_with_report(model_class, path, **kwargs)
    refuse_misfits(path, model, found)
    return model


def load_with_report(model_class, path, **kwargs) -> tuple[Any, dict]:
    """A model, and which weights do not fit, by `missing_keys`, `mismatched_keys` and so on."""
    return model_class.from_pretrained(
        path, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
    )


def refuse_misfits(path: str, model: PreTrainedModel, found: dict):
    """Raise where weights of a checkpoint and a model do not fit, as `load_whole` does."""
    shapes = [
        f"{name} {tuple(given)} instead of {tuple(own)}"
        for name, given, own in found["mismatched_keys"]
    ]
    misfits = {
        "lacks": found["missing_keys"],
        "has, beside the model's,": found["unexpected_keys"],
        "has in another shape": shapes,
    }
    told = [f"{what} {name_some(names)}" for what, names in misfits.items() if names]
    if told:
        raise ValueError(
            f"{str(path)!r} does not fit a {type(model).__name__}: it {', and '.join(told)}"
        )


def name_some(names, most: int = 3) -> str:
    """The first names in order, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - most
    return ", ".join(ordered[:most]) + (f" and {more} more" if more > 0 else "")
