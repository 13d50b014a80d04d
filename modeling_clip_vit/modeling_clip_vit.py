"""The Vision Transformer, the text Transformer and the CLIP over both.

Shape legend: `B` batch, `L` sequence (patches or tokens), `D` hidden, `P` projection.
"""

from typing import Any

import torch
from timm.layers import DropPath, calculate_drop_path_rates
from torch import nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.modeling_utils import PreTrainedModel
from transformers.models.clip.modeling_clip import (
    CLIPOutput,
    CLIPTextModelOutput,
    CLIPVisionModelOutput,
    image_text_contrastive_loss,
)
from transformers.utils import can_return_tuple
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .attention import ClipVitAttention
from .configuration_clip_vit import ClipVitConfig, ClipVitTextConfig, ClipVitVisionConfig
from .embeddings import ClipVitTextEmbeddings, ClipVitVisionEmbeddings, ConvStemPatchEmbedding
from .feed_forward import build_feed_forward
from .normalization import build_norm
from .pooling import IMAGE_POOLINGS, TEXT_POOLINGS


class ClipVitEncoderLayer(GradientCheckpointingLayer):
    """A pre-norm block (Xiong et al., 2020, section 3): both towers are stacks of it.

    `x + drop_path(attention(norm(x)))`, then `x + drop_path(feed_forward(norm(x)))`.
    """

    def __init__(self, config, drop_path_rate: float):
        super().__init__()
        self.norm1 = build_norm(config)
        self.attention = ClipVitAttention(config)
        self.norm2 = build_norm(config)
        self.feed_forward = build_feed_forward(config)
        self.drop_path = DropPath(drop_path_rate) if drop_path_rate > 0 else nn.Identity()

    def forward(
        self, hidden_BLD: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        attended_BLD, _ = self.attention(self.norm1(hidden_BLD), attention_mask, **kwargs)
        hidden_BLD = hidden_BLD + self.drop_path(attended_BLD)
        return hidden_BLD + self.drop_path(self.feed_forward(self.norm2(hidden_BLD)))


class ClipVitEncoder(nn.Module):
    """`config.num_hidden_layers` blocks, whose drop-path rate grows with depth."""

    def __init__(self, config):
        super().__init__()
        rates: list[Any] = calculate_drop_path_rates(
            config.drop_path_rate, config.num_hidden_layers
        )
        self.layers = nn.ModuleList(ClipVitEncoderLayer(config, rate) for rate in rates)

    def forward(
        self, hidden_BLD: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs
    ) -> torch.Tensor:
        for layer in self.layers:
            hidden_BLD = layer(hidden_BLD, attention_mask, **kwargs)
        return hidden_BLD


class ClipVitSimilarity(nn.Module):
    """Logits from normalised embeddings: a learned scale, and a bias where the loss has one.

    The scale is kept as its logarithm, so that a step changes it by a ratio and it stays above 0
    (Radford et al., 2021, section 2.5).
    """

    def __init__(self, config: ClipVitConfig):
        super().__init__()
        self.config = config
        # One element each rather than none: sharded training cannot split a scalar.
        self.logit_scale = nn.Parameter(torch.empty(1))
        if config.logit_bias_init_value is not None:
            self.logit_bias = nn.Parameter(torch.empty(1))

    def get_scale(self) -> torch.Tensor:
        """The factor on the cosine similarities, a scalar: the one place that exponentiates."""
        return self.logit_scale.exp().squeeze(0)

    def get_bias(self) -> torch.Tensor | None:
        """The bias on the logits, a scalar, or None where the configuration has none."""
        return self.logit_bias.squeeze(0) if hasattr(self, "logit_bias") else None

    @torch.no_grad()
    def clamp_scale(self):
        """Bring the scale back to `config.logit_scale_max`, if it has left it."""
        if self.config.logit_scale_max is not None:
            self.logit_scale.clamp_(max=torch.tensor(self.config.logit_scale_max).log().item())

    def forward(self, text_embeds_BP: torch.Tensor, image_embeds_BP: torch.Tensor) -> torch.Tensor:
        """Logits (B_text, B_image)."""
        image_embeds_BP = image_embeds_BP.to(text_embeds_BP.device)
        scale = self.get_scale().to(text_embeds_BP.device)
        logits_per_text = text_embeds_BP @ image_embeds_BP.t() * scale
        bias = self.get_bias()
        return (
            logits_per_text if bias is None else logits_per_text + bias.to(logits_per_text.device)
        )


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
    ]
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": ClipVitEncoderLayer, "attentions": ClipVitAttention}
    _auto_class = "AutoModel"
    #: Auto classes that load this model's folder, beside `_auto_class`: name -> "file.class".
    _more_auto_classes: dict[str, str] = {}

    def save_pretrained(self, save_directory, *args, **kwargs):
        """Save as `PreTrainedModel.save_pretrained` does, for all the Auto classes."""
        self.config.auto_map = dict(self._more_auto_classes)
        super().save_pretrained(save_directory, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module):
        super()._init_weights(module)
        if isinstance(module, ConvStemPatchEmbedding):
            for layer in module.stem:
                if isinstance(layer, nn.Conv2d):
                    init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, ClipVitVisionEmbeddings):
            if hasattr(module, "cls_token"):
                init.normal_(module.cls_token, std=self.config.initializer_range)
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
            if isinstance(projection := getattr(module, name, None), nn.Linear):
                init.normal_(projection.weight, std=projection.in_features**-0.5)


class ClipVitVisionModel(ClipVitPreTrainedModel):
    """The image tower: pixels to patch states and one pooled vector."""

    config: ClipVitVisionConfig
    config_class = ClipVitVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _keys_to_ignore_on_load_unexpected = [
        r"^(text_model|text_projection|visual_projection|similarity|classifier)\."
    ]

    def __init__(self, config: ClipVitVisionConfig):
        super().__init__(config)
        self.embeddings = ClipVitVisionEmbeddings(config)
        self.encoder = ClipVitEncoder(config)
        self.final_norm = build_norm(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The module that embeds patches."""
        return self.embeddings.patch_embedding

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode images.

        Args:
            pixel_values: normalised pixels, (B, C, height, width).
            interpolate_pos_encoding: accept images of another size than `config.image_size`.

        Returns:
            `last_hidden_state` (B, L, D), after the final norm, and `pooler_output`
            (B, config.pooled_size).

        Raises:
            ValueError: no images, or images of a shape that this model does not take.
        """
        if pixel_values is None:
            raise ValueError("pixel_values is missing: this model needs images")
        hidden_BLD = self.embeddings(pixel_values, interpolate_pos_encoding)
        hidden_BLD = self.final_norm(self.encoder(hidden_BLD, **kwargs))
        pooled = IMAGE_POOLINGS[self.config.pooling](hidden_BLD)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_BLD, pooler_output=pooled)


class ClipVitTextModel(ClipVitPreTrainedModel):
    """The text tower: token ids to token states and one pooled vector."""

    config: ClipVitTextConfig
    config_class = ClipVitTextConfig
    base_model_prefix = "text_model"
    input_modalities = ["text"]
    _keys_to_ignore_on_load_unexpected = [
        r"^(vision_model|text_projection|visual_projection|similarity)\."
    ]

    def __init__(self, config: ClipVitTextConfig):
        super().__init__(config)
        self.embeddings = ClipVitTextEmbeddings(config)
        self.encoder = ClipVitEncoder(config)
        self.final_norm = build_norm(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The module that embeds tokens."""
        return self.embeddings.token_embedding

    def set_input_embeddings(self, value: nn.Module):
        """Replace the module that embeds tokens."""
        self.embeddings.token_embedding = value

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode texts.

        Args:
            input_ids: token ids, (B, L).
            attention_mask: 1 for a token, 0 for padding, (B, L); without it, every token counts.
            position_ids: positions, (B, L), instead of counting from 0.
            token_type_ids: ignored; many tokenizers make them, and this tower has none.

        Returns:
            `last_hidden_state` (B, L, D), after the final norm, and `pooler_output` (B, D).

        Raises:
            ValueError: no token ids, or a text longer than the positions.
        """
        if input_ids is None:
            raise ValueError("input_ids is missing: this model needs texts")
        hidden_BLD = self.embeddings(input_ids, attention_mask, position_ids)
        if self.config.is_causal:
            mask = create_causal_mask(
                config=self.config,
                inputs_embeds=hidden_BLD,
                attention_mask=attention_mask,
                past_key_values=None,
            )
        else:
            mask = create_bidirectional_mask(
                config=self.config, inputs_embeds=hidden_BLD, attention_mask=attention_mask
            )
        hidden_BLD = self.final_norm(self.encoder(hidden_BLD, mask, **kwargs))
        pooled_BD = TEXT_POOLINGS[self.config.pooling](
            hidden_BLD, attention_mask, input_ids == self.config.eos_token_id
        )
        return BaseModelOutputWithPooling(last_hidden_state=hidden_BLD, pooler_output=pooled_BD)


class ClipVitModel(ClipVitPreTrainedModel):
    """CLIP: images and texts in one space, where what belongs together is close."""

    config: ClipVitConfig
    config_class = ClipVitConfig
    _more_auto_classes = {
        "AutoModelForZeroShotImageClassification": "modeling_clip_vit.ClipVitModel"
    }

    def __init__(self, config: ClipVitConfig):
        super().__init__(config)
        self.vision_model = ClipVitVisionModel._from_config(config.vision_config)
        self.text_model = ClipVitTextModel._from_config(config.text_config)
        self.visual_projection = build_projection(config.vision_config)
        self.text_projection = build_projection(config.text_config)
        self.similarity = ClipVitSimilarity(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The module that embeds tokens."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the module that embeds tokens."""
        self.text_model.set_input_embeddings(value)

    def get_logit_scale(self) -> torch.Tensor:
        """The factor on the cosine similarities, already exponentiated: a scalar."""
        return self.similarity.get_scale()

    def get_logit_bias(self) -> torch.Tensor | None:
        """The bias on the logits, a scalar, or None where the configuration has none."""
        return self.similarity.get_bias()

    @can_return_tuple
    def get_image_features(
        self, pixel_values: torch.Tensor, interpolate_pos_encoding: bool = False, **kwargs
    ) -> BaseModelOutputWithPooling:
        """Encode images: `pooler_output` is the projection, (B, P), not yet normalised."""
        outputs = self.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
            **kwargs,
        )
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode texts: `pooler_output` is the projection, (B, P), not yet normalised."""
        outputs = self.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            return_dict=True,
            **kwargs,
        )
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        return_loss: bool | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> CLIPOutput:
        """Encode images and texts and compare each with each.

        Args:
            input_ids: token ids, (B_text, L).
            pixel_values: normalised pixels, (B_image, C, height, width).
            attention_mask: 1 for a token, 0 for padding, (B_text, L).
            position_ids: positions, (B_text, L), instead of counting from 0.
            token_type_ids: for text towers that have them, (B_text, L).
            return_loss: also compute the contrastive loss, image i belonging to text i: softmax
                (Radford et al., 2021), or pairwise sigmoid where the configuration has a logit
                bias (Zhai et al., 2023).
            interpolate_pos_encoding: accept images of another size than the configuration's.

        Returns:
            `loss`, `logits_per_image` (B_image, B_text), `logits_per_text`, `image_embeds` and
            `text_embeds` (B, P) of length 1, and both towers' outputs.

        Raises:
            ValueError: an input is missing or of a shape that this model does not take.
        """
        vision_outputs = self.get_image_features(
            pixel_values=pixel_values, interpolate_pos_encoding=interpolate_pos_encoding, **kwargs
        )
        text_outputs = self.get_text_features(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            token_type_ids=token_type_ids,
            **kwargs,
        )
        image_embeds_BP = nn.functional.normalize(vision_outputs.pooler_output, dim=-1)
        text_embeds_BP = nn.functional.normalize(text_outputs.pooler_output, dim=-1)
        logits_per_text = self.similarity(text_embeds_BP, image_embeds_BP)
        return CLIPOutput(
            loss=self._contrast(logits_per_text) if return_loss else None,
            logits_per_image=logits_per_text.t(),
            logits_per_text=logits_per_text,
            text_embeds=text_embeds_BP,
            image_embeds=image_embeds_BP,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )

    def _contrast(self, logits_BB: torch.Tensor) -> torch.Tensor:
        if self.get_logit_bias() is None:
            return image_text_contrastive_loss(logits_BB)
        signs_BB = 2 * torch.eye(len(logits_BB), device=logits_BB.device) - 1
        return -nn.functional.logsigmoid(signs_BB * logits_BB).sum(dim=1).mean()


class ClipVitVisionModelWithProjection(ClipVitPreTrainedModel):
    """The image tower with its projection into the joint space."""

    config: ClipVitVisionConfig
    config_class = ClipVitVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _keys_to_ignore_on_load_unexpected = [r"^(text_model|text_projection|similarity)\."]

    def __init__(self, config: ClipVitVisionConfig):
        super().__init__(config)
        self.vision_model = ClipVitVisionModel._from_config(config)
        self.visual_projection = build_projection(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The module that embeds patches."""
        return self.vision_model.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> CLIPVisionModelOutput:
        """Encode images: `image_embeds` (B, P), not normalised, and `last_hidden_state`."""
        outputs = self.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
            **kwargs,
        )
        return CLIPVisionModelOutput(
            image_embeds=self.visual_projection(outputs.pooler_output),
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ClipVitTextModelWithProjection(ClipVitPreTrainedModel):
    """The text tower with its projection into the joint space."""

    config: ClipVitTextConfig
    config_class = ClipVitTextConfig
    base_model_prefix = "text_model"
    input_modalities = ["text"]
    _keys_to_ignore_on_load_unexpected = [r"^(vision_model|visual_projection|similarity)\."]

    def __init__(self, config: ClipVitTextConfig):
        super().__init__(config)
        self.text_model = ClipVitTextModel._from_config(config)
        self.text_projection = build_projection(config)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The module that embeds tokens."""
        return self.text_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module):
        """Replace the module that embeds tokens."""
        self.text_model.set_input_embeddings(value)

    @can_return_tuple
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        **kwargs,
    ) -> CLIPTextModelOutput:
        """Encode texts: `text_embeds` (B, P), not normalised, and `last_hidden_state`."""
        outputs = self.text_model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            return_dict=True,
            **kwargs,
        )
        return CLIPTextModelOutput(
            text_embeds=self.text_projection(outputs.pooler_output),
            last_hidden_state=outputs.last_hidden_state,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


class ClipVitForImageClassification(ClipVitPreTrainedModel):
    """The image tower with a linear classifier on its pooled output."""

    config: ClipVitVisionConfig
    config_class = ClipVitVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _auto_class = "AutoModelForImageClassification"
    _more_auto_classes = {"AutoModel": "modeling_clip_vit.ClipVitVisionModel"}
    _keys_to_ignore_on_load_unexpected = [
        r"^(text_model|text_projection|visual_projection|similarity)\."
    ]

    def __init__(self, config: ClipVitVisionConfig):
        super().__init__(config)
        self.vision_model = ClipVitVisionModel._from_config(config)
        self.classifier = nn.Linear(config.pooled_size, config.num_labels or 1)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The module that embeds patches."""
        return self.vision_model.get_input_embeddings()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        **kwargs,
    ) -> ImageClassifierOutput:
        """Classify images: `logits` (B, config.num_labels), and `loss` where `labels` are given.

        Args:
            pixel_values: normalised pixels, (B, C, height, width).
            labels: class ids, (B,), or what `config.problem_type` asks for.
            interpolate_pos_encoding: accept images of another size than `config.image_size`.
        """
        outputs = self.vision_model(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            return_dict=True,
            **kwargs,
        )
        logits = self.classifier(outputs.pooler_output)
        return ImageClassifierOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


def build_projection(config: ClipVitVisionConfig | ClipVitTextConfig) -> nn.Linear:
    """The linear layer from a tower's pooled output into the joint space."""
    return nn.Linear(config.pooled_size, config.projection_dim, bias=False)


__all__ = [
    "ClipVitForImageClassification",
    "ClipVitModel",
    "ClipVitPreTrainedModel",
    "ClipVitTextModel",
    "ClipVitTextModelWithProjection",
    "ClipVitVisionModel",
    "ClipVitVisionModelWithProjection",
]
