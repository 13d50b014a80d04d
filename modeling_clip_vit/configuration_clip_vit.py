"""Configurations of the ViT tower, the text tower and the CLIP over both.

This file imports none of the model's other files, so that a configuration can be read without
torch, timm and einops, and by every release of Transformers from 5.5 on. The allowed values of a
field are listed here; the modules have tables with the same names.
"""

from collections.abc import Collection
from math import exp, prod
from typing import Any, ClassVar, TypeAlias

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import is_torch_available

#: Allowed values of fields, each with a module in a table of the same names: lists, so that code
#: outside of this package can add to both.
PATCH_EMBEDDINGS = ["conv", "linear", "conv_stem"]
POSITION_INTERPOLATIONS = ["bicubic", "antialiased"]
ATTENTION_TYPES = ["softmax", "sigmoid"]
FEED_FORWARDS = ["mlp", "glu"]
#: What papers call a feed-forward, in lower case -> its name, and its `mlp_type` and `hidden_act`.
NAMED_FEED_FORWARDS = {
    "swiglu": ("SwiGLU", "glu", "silu"),
    "geglu": ("GEGLU", "glu", "gelu"),
    "reglu": ("ReGLU", "glu", "relu"),
    "relu2": ("ReLU²", "mlp", "relu2"),
}
NORM_TYPES = ["layernorm", "rmsnorm", "groupnorm", "batchnorm", "dyt"]
IMAGE_POOLINGS = ["cls", "mean", "map", "flatten"]
TEXT_POOLINGS = ["cls", "mean", "map", "eos", "last"]
#: Allowed values of fields without such a table.
ATTENTION_GATES = ("none", "headwise", "elementwise")
NORM_PLACEMENTS = ("pre", "post", "sandwich")
FINAL_NORMS = ("before_pooling", "after_pooling", "none")
POSITION_EMBEDDINGS = ("learned", "sincos", "rope", "none")
PROJECTIONS = ("linear", "mlp", "none")
#: Fields of a joint configuration that are its own.
JOINT_FIELDS = (
    "vision_config",
    "text_config",
    "projection_dim",
    "logit_scale_init_value",
    "logit_scale_max",
    "logit_bias_init_value",
)

#: Fields that ClipVitConfig adds to the configuration of another model type, and their defaults.
#: `pooling` None takes the tower's own pooled output, or the mean over tokens where it has none.
FOREIGN_FIELDS: dict[str, str | bool | None] = {
    "pooling": None,
    "projection_type": "linear",
    "projection_bias": False,
    "projection_hidden_size": None,
    "projection_hidden_bias": None,
}
FOREIGN_IMAGE_POOLINGS = ("cls", "mean")
FOREIGN_TEXT_POOLINGS = ("cls", "mean", "eos", "last")

#: `model_type` of another implementation's checkpoint -> the function that converts it to ours.
CONVERSIONS = {
    "clip": "from_hf_clip",
    "siglip": "from_hf_siglip",
    "siglip2": "from_hf_siglip2",
    "metaclip_2": "from_hf_metaclip_2",
    "chinese_clip": "from_hf_chinese_clip",
    "altclip": "from_hf_altclip",
    "align": "from_hf_align",
    "aimv2": "from_hf_aimv2",
    "tipsv2": "from_hf_tipsv2",
    "clipseg": "from_hf_clipseg",
    "vision-text-dual-encoder": "from_hf_dual_encoder",
}


class OwnModelType:
    """Rejects the configuration of another model type.

    Otherwise Transformers would warn, take the fields that have the same names, and build a model
    that its checkpoint fills in part or not at all.
    """

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs):
        """Build from a dict, as `PreTrainedConfig.from_dict` does.

        Raises:
            ValueError: it is of another model type.
        """
        expected = cls.model_type  # type: ignore[attr-defined]
        model_type = config_dict.get("model_type") or expected
        if model_type != expected:
            joint_type = model_type.removesuffix("_vision_model").removesuffix("_text_model")
            name = CONVERSIONS.get(joint_type)
            advice = "load it with AutoModel"
            if name is not None:
                advice = f"convert it with modeling_clip_vit.conversion.{name}, or clip-vit convert"
            raise ValueError(
                f"a checkpoint of type {model_type!r} is not one of type {expected!r}: {advice}"
            )
        return super().from_dict(config_dict, **kwargs)  # type: ignore[misc]


@strict
class ClipVitEncoderConfig(OwnModelType, PreTrainedConfig):
    """What both towers share: the shape of an encoder block and how many there are.

    Args:
        hidden_size: width D of the hidden states.
        intermediate_size: width F inside the feed-forward module.
        num_hidden_layers: number of encoder blocks.
        attention_type: `softmax` or `sigmoid` (Ramapuram et al., 2024, section 2).
        num_attention_heads: number H of query heads.
        num_key_value_heads: number K of key/value heads, a divisor of H; H when None.
        head_dim: size A of a head; hidden_size / num_attention_heads when None.
        attention_bias: whether the attention's linear layers have biases.
        attention_q_bias, attention_k_bias, attention_v_bias, attention_out_bias,
            attention_gate_bias: the same for queries, keys, values, the output and the gate apart;
            attention_bias when None.
        attention_gate: a sigmoid gate on what each head attends to (Qiu et al., 2025, section 2.2):
            `headwise` (a number for each head), `elementwise` (one for each feature) or `none`.
        value_residual: mix the values of each block with the first block's by a learned share
            (Zhou et al., 2024, section 3).
        qk_norm: normalise queries and keys within each head (Dehghani et al., 2023, section 2).
        mlp_type: `mlp` (two layers) or `glu` (gated).
        mlp_bias: whether the feed-forward module's linear layers have biases.
        adjust_glu_size: make a gated module 2/3 as wide, so that it has as many parameters as one
            that is not gated.
        hidden_act: activation, by its name in Transformers.
        norm_type: `layernorm`, `rmsnorm`, `groupnorm`, `batchnorm` or `dyt` (dynamic tanh).
        num_norm_groups: groups of features with norm_type `groupnorm`, a divisor of hidden_size.
        layer_norm_eps: added to the variance by the normalisation layers.
        norm_placement: `pre` (before each branch), `post` (after each sum; Vaswani et al., 2017)
            or `sandwich` (before and after each branch; Ding et al., 2021, section 2.4).
        embedding_norm: normalise the embedded tokens, as CLIP's image tower does.
        final_norm: `before_pooling` (all tokens), `after_pooling` (only what is pooled) or `none`.
        layer_scale_init_value: initial factor of each branch's features (Touvron et al., 2021,
            section 2); None for no such factor.
        position_embedding_type: a name of `POSITION_EMBEDDINGS`: `learned`, `sincos` (fixed),
            `rope` (rotary; Su et al., 2021) or `none`. Images have two axes, texts one.
        rope_theta: base of the frequencies of rotary positions.
        embedding_dropout: dropout on the embedded tokens.
        attention_dropout: dropout on the attention weights.
        hidden_dropout: dropout on the feed-forward module's hidden units.
        drop_path_rate: stochastic depth on each residual branch (Huang et al., 2016): 0 in the
            first block, growing linearly to this rate in the last.
        initializer_range: standard deviation of the initial weights.
        projection_dim: size P of the joint embedding, for the models with projection.
        projection_type: `linear`, `mlp` (two layers with hidden_act between them) or `none` (the
            pooled output as it is, of size projection_dim).
        projection_bias: whether the projection has a bias.
        projection_hidden_size: width between the two layers of an `mlp` projection; the size of
            the pooled output when None.
        projection_hidden_bias: whether the first of them has a bias; projection_bias when None.
    """

    # A saved configuration names its own file, so that it loads without this package.
    _auto_class: ClassVar[str | None] = "AutoConfig"

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_hidden_layers: int = 12
    attention_type: str = "softmax"
    num_attention_heads: int = 12
    num_key_value_heads: int | None = None
    head_dim: int | None = None
    attention_bias: bool = True
    attention_q_bias: bool | None = None
    attention_k_bias: bool | None = None
    attention_v_bias: bool | None = None
    attention_out_bias: bool | None = None
    attention_gate: str = "none"
    attention_gate_bias: bool | None = None
    value_residual: bool = False
    qk_norm: bool = False
    mlp_type: str = "mlp"
    mlp_bias: bool = True
    adjust_glu_size: bool = False
    hidden_act: str = "gelu"
    norm_type: str = "layernorm"
    num_norm_groups: int = 8
    layer_norm_eps: float = 1e-5
    norm_placement: str = "pre"
    embedding_norm: bool = False
    final_norm: str = "before_pooling"
    layer_scale_init_value: float | int | None = None
    position_embedding_type: str = "learned"
    rope_theta: float | int = 10000.0
    embedding_dropout: float | int = 0.0
    attention_dropout: float | int = 0.0
    hidden_dropout: float | int = 0.0
    drop_path_rate: float | int = 0.0
    initializer_range: float = 0.02
    projection_dim: int = 512
    projection_type: str = "linear"
    projection_bias: bool = False
    projection_hidden_size: int | None = None
    projection_hidden_bias: bool | None = None

    #: Axes of a position: 1 in a text, 2 in an image.
    position_axes: ClassVar[int] = 1

    def __post_init__(self, **kwargs):
        parts = ("q", "k", "v", "out") + (("gate",) if self.attention_gate != "none" else ())
        for part in parts:
            if getattr(self, f"attention_{part}_bias") is None:
                setattr(self, f"attention_{part}_bias", self.attention_bias)
        if self.num_key_value_heads is None:
            self.num_key_value_heads = self.num_attention_heads
        if self.head_dim is None and self.num_attention_heads > 0:
            self._require_multiple("hidden_size", self.num_attention_heads, "num_attention_heads")
            self.head_dim = self.hidden_size // self.num_attention_heads
        super().__post_init__(**kwargs)

    @classmethod
    def get_config_dict(cls, *args, **kwargs):
        """Read the fields; both towers of a quantised joint checkpoint are quantised as it is."""
        fields, kwargs = super().get_config_dict(*args, **kwargs)
        tower = fields.get(cls.base_config_key)
        if tower and "quantization_config" in fields:
            tower["quantization_config"] = fields["quantization_config"]
        return fields, kwargs

    def validate_encoder(self):
        """Reject an encoder that cannot be built, naming field, value and what is allowed."""
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
        self._require_one_of("attention_type", ATTENTION_TYPES)
        self._require_one_of("attention_gate", ATTENTION_GATES)
        self._refuse_named_feed_forward()
        self._require_one_of("mlp_type", FEED_FORWARDS)
        if is_torch_available():
            from transformers.activations import ACT2FN

            self._require_one_of("hidden_act", ACT2FN)
        self._require_one_of("norm_type", NORM_TYPES)
        self._require_one_of("norm_placement", NORM_PLACEMENTS)
        self._require_one_of("final_norm", FINAL_NORMS)
        self._require_one_of("position_embedding_type", POSITION_EMBEDDINGS)
        self._require_one_of("projection_type", PROJECTIONS)
        if self.norm_type == "groupnorm":
            self._require(
                "num_norm_groups",
                self.num_norm_groups >= 1 and self.hidden_size % self.num_norm_groups == 0,
                f"a divisor of hidden_size={self.hidden_size} with norm_type='groupnorm'",
            )
        size = {"rope": "head_dim", "sincos": "hidden_size"}.get(self.position_embedding_type)
        if size:
            self._require(
                size,
                getattr(self, size) % (2 * self.position_axes) == 0,
                f"a multiple of {2 * self.position_axes} with position_embedding_type="
                f"{self.position_embedding_type!r}",
            )
        self._require("rope_theta", self.rope_theta > 0, "above 0")
        for name in ("embedding_dropout", "attention_dropout", "hidden_dropout", "drop_path_rate"):
            rate = getattr(self, name)
            self._require(name, 0 <= rate < 1, "at least 0 and below 1")
        self._require("layer_norm_eps", self.layer_norm_eps > 0, "above 0")
        if self.pooling == "map":
            self._require_multiple("hidden_size", self.num_attention_heads, "num_attention_heads")

    def _require(self, name: str, holds: bool, allowed: str):
        if not holds:
            raise ValueError(f"{name}={getattr(self, name)!r} is not allowed: it must be {allowed}")

    def _refuse_named_feed_forward(self):
        for field in ("mlp_type", "hidden_act"):
            given = getattr(self, field)
            meant = NAMED_FEED_FORWARDS.get(given.lower())
            if meant is None or (field, given) == ("hidden_act", meant[2]):
                continue
            name, mlp_type, hidden_act = meant
            raise ValueError(
                f"{field}={given!r} is not allowed: {name} is mlp_type={mlp_type!r} with "
                f"hidden_act={hidden_act!r}"
            )

    def _require_one_of(self, name: str, choices: Collection[str]):
        allowed = f"one of {', '.join(choices)}"
        if isinstance(choices, list):
            allowed += ", or your own after an import of the code that adds it"
        self._require(name, getattr(self, name) in choices, allowed)

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
        conv_stem_widths, conv_stem_kernels, conv_stem_strides: one entry per convolution of the
            stem; the strides multiply to patch_size. None uses log2(patch_size) 3x3 convolutions of
            stride 2, whose widths double up to hidden_size; patch_size must then be a power of two.
        patch_bias: whether the last layer of the patch embedding has a bias.
        position_interpolation: how learned positions are resized for images of another shape than
            the model was made for: `bicubic`, or `antialiased` (bilinear, averaged where the grid
            shrinks), as in SigLIP 2.
        patch_dropout: share of the patches that each image loses in training (Li et al., 2023).
        use_cls_token: whether a learned class token comes first; by default with pooling `cls`.
        num_register_tokens: learned tokens without meaning after it (Darcet et al., 2024).
        pooling: `cls` (class token), `mean`, `map` (attention; Zhai et al., 2022) or `flatten`
            (all tokens side by side, which fixes the image size).
        pool_prefix_tokens: whether `mean`, `map` and `flatten` also take class token and registers.
        encoder_config: of an image encoder of another type, or a dict of its fields, which a
            classifier then has instead of this ViT; of the fields above, image_size and
            num_channels alone count. None for this ViT.
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
    patch_bias: bool = True
    position_interpolation: str = "bicubic"
    patch_dropout: float | int = 0.0
    use_cls_token: bool | None = None
    num_register_tokens: int = 0
    pooling: str = "cls"
    pool_prefix_tokens: bool = False
    encoder_config: Any = None

    position_axes: ClassVar[int] = 2

    def __post_init__(self, **kwargs):
        if self.encoder_config is not None:
            self.encoder_config = resolve_config(self.encoder_config, ClipVitVisionConfig)
            prepare_foreign(self.encoder_config, FOREIGN_IMAGE_POOLINGS)
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
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches: class token and registers."""
        return int(bool(self.use_cls_token)) + self.num_register_tokens

    @property
    def first_pooled_token(self) -> int:
        """The first token that is pooled: class token and registers are not part of the image."""
        sees_prefix = self.pooling == "cls" or self.pool_prefix_tokens
        return 0 if sees_prefix else self.num_prefix_tokens

    @property
    def pooled_size(self) -> int:
        """Size of the pooled output."""
        if self.pooling != "flatten":
            return self.hidden_size
        num_tokens = self.grid_size**2 + self.num_prefix_tokens - self.first_pooled_token
        return num_tokens * self.hidden_size

    def validate_image(self):
        """Reject an image tower that cannot be built, naming field, value and what is allowed."""
        for name in ("image_size", "patch_size", "num_channels"):
            self._require(name, getattr(self, name) >= 1, "an integer of at least 1")
        if self.encoder_config is not None:
            return
        self._require_multiple("image_size", self.patch_size, "patch_size")
        self._require_one_of("patch_embedding", PATCH_EMBEDDINGS)
        self._require_one_of("pooling", IMAGE_POOLINGS)
        self._require_one_of("position_interpolation", POSITION_INTERPOLATIONS)
        self._require(
            "num_register_tokens", self.num_register_tokens >= 0, "an integer of at least 0"
        )
        self._require("patch_dropout", 0 <= self.patch_dropout < 1, "at least 0 and below 1")
        if self.pooling == "flatten":
            self._require("patch_dropout", self.patch_dropout == 0, "0 with pooling='flatten'")
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
        pooling: `eos` (the first end-of-text token), `cls` (the first token), `last`, `mean` or
            `map` (attention).
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
        """Reject a text tower that cannot be built, naming field, value and what is allowed."""
        for name in ("vocab_size", "max_position_embeddings"):
            self._require(name, getattr(self, name) >= 1, "an integer of at least 1")
        self._require_one_of("pooling", TEXT_POOLINGS)
        self._require(
            "eos_token_id",
            self.pooling != "eos" or self.eos_token_id is not None,
            "the id of the end-of-text token with pooling='eos'",
        )


def is_foreign(config: PreTrainedConfig) -> bool:
    """Whether a tower's configuration is that of another model type."""
    return config.model_type not in (ClipVitVisionConfig.model_type, ClipVitTextConfig.model_type)


def resolve_config(
    config: PreTrainedConfig | dict | None, own_class: type[PreTrainedConfig]
) -> PreTrainedConfig:
    """The configuration of a tower: our own, or by its `model_type` one of Transformers.

    Args:
        config: a configuration, a dict of its fields, or None for our own defaults.
        own_class: our own configuration of this tower.

    Raises:
        ValueError: Transformers has no such model type.
    """
    if config is None:
        return own_class()
    if not isinstance(config, dict):
        return config
    model_type = config.get("model_type", own_class.model_type)
    if model_type == own_class.model_type:
        return own_class(**config)
    from transformers import AutoConfig

    fields = {name: value for name, value in config.items() if name != "model_type"}
    try:
        return AutoConfig.for_model(model_type, **fields)
    except ValueError as error:
        raise ValueError(
            f"model_type={model_type!r} is not allowed: it must be {own_class.model_type} or a "
            "model type of Transformers"
        ) from error


def prepare_foreign(config: PreTrainedConfig, poolings: Collection[str]):
    """Add the fields that a joint model needs to the configuration of another model type.

    Raises:
        ValueError: its `pooling` is not one of the poolings.
    """
    for name, default in FOREIGN_FIELDS.items():
        if not hasattr(config, name):
            setattr(config, name, default)
    if config.pooling is not None and config.pooling not in poolings:
        raise ValueError(
            f"pooling={config.pooling!r} is not allowed with a tower of type "
            f"{config.model_type!r}: it must be null or one of {', '.join(poolings)}"
        )
    if config.pooling is not None and config.model_type == "timm_wrapper":
        raise ValueError(
            f"pooling={config.pooling!r} is not allowed with a model of timm: set global_pool in "
            "its model_args"
        )


#: The configuration of either tower.
TowerConfig: TypeAlias = ClipVitVisionConfig | ClipVitTextConfig


@strict
class ClipVitConfig(OwnModelType, PreTrainedConfig):
    """CLIP: an image tower and a text tower in one embedding space (Radford et al., 2021).

    Args:
        vision_config: configuration of the image tower, or a dict of its fields: a
            [`ClipVitVisionConfig`], or any image encoder's of Transformers, by its `model_type`.
        text_config: configuration of the text tower, or a dict of its fields: a
            [`ClipVitTextConfig`], or any text encoder's of Transformers, by its `model_type`.
            Besides its own fields, another type may have `pooling` (null for the tower's own pooled
            output, or the mean over tokens where it has none) and the fields of the projection.
        projection_dim: size P of the joint embedding.
        logit_scale_init_value: initial *logarithm* of the factor on the cosine similarities.
        logit_scale_max: upper bound of that factor (not of its logarithm), kept after each
            optimiser step; None for no bound.
        logit_bias_init_value: initial value of a learned bias on the logits, which belongs to the
            pairwise sigmoid loss (Zhai et al., 2023); None for no bias, and the softmax loss.
    """

    model_type = "clip_vit"
    _auto_class: ClassVar[str | None] = "AutoConfig"
    sub_configs: ClassVar[dict[str, type[PreTrainedConfig]]] = {
        "vision_config": ClipVitVisionConfig,
        "text_config": ClipVitTextConfig,
    }

    vision_config: Any = None
    text_config: Any = None
    projection_dim: int = 512
    logit_scale_init_value: float | int = 2.6592
    logit_scale_max: float | int | None = 100.0
    logit_bias_init_value: float | int | None = None

    def __post_init__(self, **kwargs):
        self.vision_config = resolve_config(self.vision_config, ClipVitVisionConfig)
        self.text_config = resolve_config(self.text_config, ClipVitTextConfig)
        super().__post_init__(**kwargs)
        if is_foreign(self.vision_config):
            prepare_foreign(self.vision_config, FOREIGN_IMAGE_POOLINGS)
        if is_foreign(self.text_config):
            prepare_foreign(self.text_config, FOREIGN_TEXT_POOLINGS)
        # A tower with projection is loaded from the joint checkpoint by its own configuration.
        self.vision_config.projection_dim = self.projection_dim
        self.text_config.projection_dim = self.projection_dim

    def validate_contrast(self):
        """Reject an invalid projection or scale, naming field, value and what is allowed."""
        if self.projection_dim < 1:
            raise ValueError(
                f"projection_dim={self.projection_dim} is not allowed: it must be an integer of "
                "at least 1"
            )
        for tower in (self.vision_config, self.text_config):
            if tower.projection_type not in PROJECTIONS:
                raise ValueError(
                    f"projection_type={tower.projection_type!r} is not allowed: it must be one of "
                    f"{', '.join(PROJECTIONS)}"
                )
            hidden_size = tower.projection_hidden_size
            if hidden_size is not None and hidden_size < 1:
                raise ValueError(
                    f"projection_hidden_size={hidden_size} is not allowed: it must be an integer "
                    "of at least 1, or null for the size of the pooled output"
                )
            size = getattr(tower, "pooled_size", getattr(tower, "hidden_size", None))
            if tower.projection_type == "none" and size not in (None, self.projection_dim):
                raise ValueError(
                    f"projection_dim={self.projection_dim} is not allowed: it must be the size of "
                    f"the pooled output, {size}, with projection_type='none'"
                )
        if self.logit_scale_max is not None and self.logit_scale_max <= 0:
            raise ValueError(
                f"logit_scale_max={self.logit_scale_max} is not allowed: it must be above 0, or "
                "null for no bound"
            )
        highest = self.logit_scale_max
        # Allow 0.1 % more, for configurations that store the logarithm with four digits.
        if highest is not None and exp(min(self.logit_scale_init_value, 700)) > 1.001 * highest:
            raise ValueError(
                f"logit_scale_init_value={self.logit_scale_init_value} is not allowed: it is a "
                f"logarithm, and must be at most that of logit_scale_max={highest}"
            )


__all__ = ["ClipVitConfig", "ClipVitTextConfig", "ClipVitVisionConfig"]
