"""Configurations of the ViT tower, the text tower and the CLIP over both."""

from math import prod
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers.activations import ACT2FN
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .embeddings import PATCH_EMBEDDINGS
from .feed_forward import FEED_FORWARDS
from .normalization import NORM_LAYERS
from .pooling import IMAGE_POOLINGS, TEXT_POOLINGS


@strict
class ClipVitEncoderConfig(PreTrainedConfig):
    """What both towers share: the shape of an encoder block and how many there are.

    Args:
        hidden_size: width D of the hidden states.
        intermediate_size: width F inside the feed-forward module.
        num_hidden_layers: number of encoder blocks.
        num_attention_heads: number H of query heads.
        num_key_value_heads: number K of key/value heads, a divisor of H; H when None.
        head_dim: size A of a head; hidden_size / num_attention_heads when None.
        attention_bias: whether the attention's linear layers have biases.
        mlp_type: `mlp` (two layers) or `glu` (gated).
        hidden_act: activation, by its name in Transformers.
        norm_type: a name of `normalization.NORM_LAYERS`.
        layer_norm_eps: added to the variance by the normalisation layers.
        embedding_dropout: dropout on the embedded tokens.
        attention_dropout: dropout on the attention weights.
        hidden_dropout: dropout on the feed-forward module's hidden units.
        drop_path_rate: stochastic depth on each residual branch (Huang et al., 2016): 0 in the
            first block, growing linearly to this rate in the last.
        initializer_range: standard deviation of the initial weights.
        projection_dim: size P of the joint embedding, for the models with projection.
    """

    # A saved configuration names its own file, for who loads it without this package.
    _auto_class: ClassVar[str | None] = "AutoConfig"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    attention_bias: bool = True
    mlp_type: str = "mlp"
    hidden_act: str = "gelu"
    norm_type: str = "layernorm"
    layer_norm_eps: float = 1e-5
    embedding_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    projection_dim: int = 512

    def __post_init__(self, **kwargs):
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and self.num_attention_heads > 0:
            self._require_multiple("hidden_size", self.num_attention_heads, "num_attention_heads")
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    def validate_encoder(self):
        """Refuse an encoder that cannot be built, with the field, its value and what is allowed."""
        for name in (
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_key_value_heads",
            "head_dim",
            "projection_dim",
        ):
            self._require(name, (getattr(self, name) or 0) >= 1, "an integer of at least 1")
        self._require("num_hidden_layers", self.num_hidden_layers >= 0, "an integer of at least 0")
        self._require(
            "num_key_value_heads",
            self.num_attention_heads % (self.num_key_value_heads or 1) == 0,
            f"a divisor of num_attention_heads={self.num_attention_heads}",
        )
        self._require_one_of("mlp_type", FEED_FORWARDS)
        self._require_one_of("hidden_act", ACT2FN)
        self._require_one_of("norm_type", NORM_LAYERS)
        for name in ("embedding_dropout", "attention_dropout", "hidden_dropout", "drop_path_rate"):
            rate = getattr(self, name)
            self._require(name, 0 <= rate < 1, "at least 0 and below 1")
        self._require("layer_norm_eps", self.layer_norm_eps > 0, "above 0")

    def _require(self, name: str, holds: bool, allowed: str):
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: it must be {allowed}")

    def _require_one_of(self, name: str, choices):
        self._require(name, getattr(self, name) in choices, f"one of {', '.join(choices)}")

    def _require_multiple(self, name: str, divisor: int, of: str):
        value = getattr(self, name)
        self._require(name, value % divisor == 0, f"a multiple of {of}={divisor}")


@strict
class ClipVitVisionConfig(ClipVitEncoderConfig):
    """The image tower: a Vision Transformer (Dosovitskiy et al., 2021).

    The defaults are a ViT-B/32. The fields of the encoder block are in [`ClipVitEncoderConfig`].

    Args:
        image_size: side of the (square) images in pixels.
        patch_size: side of a patch in pixels, a divisor of image_size.
        num_channels: channels of an image.
        patch_embedding: `conv` (a strided convolution), `linear` (LayerNorm-Linear-LayerNorm over
            flattened patches) or `conv_stem` (a stack of convolutions; Xiao et al., 2021).
        conv_stem_widths, conv_stem_kernels, conv_stem_strides: one entry a convolution of the
            stem; the strides multiply to patch_size. When None: 3x3 convolutions of stride 2, as
            many as the patch size, a power of two, asks for, their widths doubling up to
            hidden_size.
        use_cls_token: whether a learned class token stands first; True when pooling is `cls`.
        pooling: `cls` (class token), `mean`, or `flatten` (all tokens side by side, which fixes
            the image size).
    """

    model_type = "clip_vit_vision_model"
    base_config_key = "vision_config"

    image_size: int = 224
    patch_size: int = 32
    num_channels: int = 3
    patch_embedding: str = "conv"
    conv_stem_widths: list[int] | tuple[int, ...] | None = None
    conv_stem_kernels: list[int] | tuple[int, ...] | None = None
    conv_stem_strides: list[int] | tuple[int, ...] | None = None
    use_cls_token: bool | None = None
    pooling: str = "cls"

    def __post_init__(self, **kwargs):
        if self.use_cls_token is None:
            self.use_cls_token = self.pooling == "cls"
        if self.patch_embedding == "conv_stem" and self.conv_stem_strides is None:
            depth = max(self.patch_size.bit_length() - 1, 1)
            self.conv_stem_strides = [2] * depth
            self.conv_stem_kernels = self.conv_stem_kernels or [3] * depth
            self.conv_stem_widths = self.conv_stem_widths or [
                max(self.hidden_size // 2 ** (depth - 1 - i), 8) for i in range(depth)
            ]
        super().__post_init__(**kwargs)

    @property
    def grid_size(self) -> int:
        """Number of patches along a side of the image."""
        return self.image_size // self.patch_size

    @property
    def pooled_size(self) -> int:
        """Size of the pooled output."""
        if self.pooling != "flatten":
            return self.hidden_size
        return (self.grid_size**2 + int(bool(self.use_cls_token))) * self.hidden_size

    def validate_image(self):
        """Refuse an image tower that cannot be built, with field, value and what is allowed."""
        for name in ("image_size", "patch_size", "num_channels"):
            self._require(name, getattr(self, name) >= 1, "an integer of at least 1")
        self._require_multiple("image_size", self.patch_size, "patch_size")
        self._require_one_of("patch_embedding", PATCH_EMBEDDINGS)
        self._require_one_of("pooling", IMAGE_POOLINGS)
        self._require(
            "use_cls_token", self.use_cls_token or self.pooling != "cls", "True with pooling='cls'"
        )
        if self.patch_embedding == "conv_stem":
            self._validate_conv_stem()

    def _validate_conv_stem(self):
        strides = self.conv_stem_strides or ()
        self._require(
            "conv_stem_strides",
            len(strides) > 0 and min(strides) >= 1 and prod(strides) == self.patch_size,
            f"strides of at least 1 whose product is patch_size={self.patch_size}",
        )
        widths, kernels = self.conv_stem_widths or (), self.conv_stem_kernels or ()
        for name, values in {"conv_stem_widths": widths, "conv_stem_kernels": kernels}.items():
            self._require(
                name,
                len(values) == len(strides) and min(values) >= 1,
                f"{len(strides)} integers of at least 1, one for each of conv_stem_strides",
            )
        self._require(
            "conv_stem_kernels",
            all(k >= s and (s > 1 or k % 2 == 1) for k, s in zip(kernels, strides, strict=True)),
            f"at least as large as conv_stem_strides={list(strides)}, and odd where a stride is 1",
        )


@strict
class ClipVitTextConfig(ClipVitEncoderConfig):
    """The text tower: a Transformer over tokens (Radford et al., 2021, section 2.4).

    The defaults are CLIP's. The fields of the encoder block are in [`ClipVitEncoderConfig`].

    Args:
        vocab_size: number V of tokens.
        max_position_embeddings: the longest text in tokens.
        is_causal: whether a token sees only those before it (as in CLIP) or all (as in SigLIP).
        pooling: `eos` (the first end-of-text token), `cls` (the first token) or `mean`.
        pad_token_id, bos_token_id, eos_token_id: ids of the tokenizer's special tokens.
    """

    model_type = "clip_vit_text_model"
    base_config_key = "text_config"

    vocab_size: int = 49408
    hidden_size: int = 512
    intermediate_size: int = 2048
    num_attention_heads: int = 8
    max_position_embeddings: int = 77
    is_causal: bool = True
    pooling: str = "eos"
    pad_token_id: int | None = 49407
    bos_token_id: int | None = 49406
    eos_token_id: int | None = 49407

    @property
    def pooled_size(self) -> int:
        """Size of the pooled output."""
        return self.hidden_size

    def validate_text(self):
        """Refuse a text tower that cannot be built, with field, value and what is allowed."""
        for name in ("vocab_size", "max_position_embeddings"):
            self._require(name, getattr(self, name) >= 1, "an integer of at least 1")
        self._require_one_of("pooling", TEXT_POOLINGS)
        self._require(
            "eos_token_id",
            self.pooling != "eos" or self.eos_token_id is not None,
            "the id of the end-of-text token with pooling='eos'",
        )


@strict
class ClipVitConfig(PreTrainedConfig):
    """CLIP: an image tower and a text tower in one embedding space (Radford et al., 2021).

    Args:
        vision_config: configuration of the image tower, or a dict of its fields.
        text_config: configuration of the text tower, or a dict of its fields.
        projection_dim: size P of the joint embedding.
        logit_scale_init_value: initial *logarithm* of the factor on the cosine similarities.
        logit_scale_max: upper bound of that factor (not of its logarithm), kept after each
            optimiser step; None for no bound.
        logit_bias_init_value: initial value of a learned bias on the logits, which belongs to the
            pairwise sigmoid loss (Zhai et al., 2023); None for no bias, and the softmax loss.
    """

    model_type = "clip_vit"
    _auto_class: ClassVar[str | None] = "AutoConfig"
    sub_configs_defaults = {
        "vision_config": SubConfigSpec(ClipVitVisionConfig),
        "text_config": SubConfigSpec(ClipVitTextConfig),
    }

    vision_config: Any = None
    text_config: Any = None
    projection_dim: int = 512
    logit_scale_init_value: float | int = 2.6592
    logit_scale_max: float | int | None = 100.0
    logit_bias_init_value: float | int | None = None

    def __post_init__(self, **kwargs):
        super().__post_init__(**kwargs)
        # A tower with projection is loaded from the joint checkpoint by its own configuration.
        self.vision_config.projection_dim = self.projection_dim
        self.text_config.projection_dim = self.projection_dim

    def validate_contrast(self):
        """Refuse a projection or a scale that cannot be, with field, value and what is allowed."""
        if self.projection_dim < 1:
            raise ValueError(
                f"projection_dim={self.projection_dim} is not allowed: it must be an integer of "
                "at least 1"
            )
        if self.logit_scale_max is not None and self.logit_scale_max <= 0:
            raise ValueError(
                f"logit_scale_max={self.logit_scale_max} is not allowed: it must be above 0, or "
                "null for no bound"
            )


__all__ = ["ClipVitConfig", "ClipVitTextConfig", "ClipVitVisionConfig"]
