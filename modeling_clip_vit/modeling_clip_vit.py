"""The Vision Transformer, the text Transformer and the CLIP over both.

Shape legend: `B` batch, `L` sequence (patches or tokens), `D` hidden, `P` projection, `R` packed
rows, `W` tokens of a packed row.
"""

import copy
import inspect
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_mask, create_causal_mask
from transformers.modeling_outputs import BaseModelOutputWithPooling, ImageClassifierOutput
from transformers.models.clip.modeling_clip import (
    CLIPOutput,
    CLIPTextModelOutput,
    CLIPVisionModelOutput,
)
from transformers.utils import can_return_tuple, logging
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

# Transformers before 5.15 copies from a local folder only the files that this one imports itself.
from .attention import ClipVitAttention  # noqa: F401
from .companions import copy_companions  # noqa: F401
from .configuration_clip_vit import (
    JOINT_FIELDS,
    ClipVitConfig,
    ClipVitTextConfig,
    ClipVitVisionConfig,
    is_foreign,
)
from .embeddings import (
    ClipVitTextEmbeddings,
    ClipVitVisionEmbeddings,
    build_rotation,
    cut_texts,
)
from .encoder import ClipVitEncoder
from .feed_forward import ClipVitMLP  # noqa: F401
from .normalization import build_final_norm
from .packing import pack, packed_attention_mask, unpack
from .pooling import IMAGE_POOLINGS, TEXT_POOLINGS, build_pooling, ends_of_texts
from .pretrained import ClipVitPreTrainedModel
from .projection import ClipVitSimilarity, build_projection
from .towers import build_tower, load_tower, pooled_size, run_tower

logger = logging.get_logger(__name__)

#: The argument of `create_causal_mask` for the keys of earlier calls, renamed in Transformers 5.24.
CACHE_ARGUMENT = (
    "cache" if "cache" in inspect.signature(create_causal_mask).parameters else "past_key_values"
)


class ClipVitVisionModel(ClipVitPreTrainedModel):
    """The image tower: pixels to patch states and one pooled vector."""

    config: ClipVitVisionConfig
    config_class = ClipVitVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _input_embed_layer = "patch_embedding"
    _keys_to_ignore_on_load_unexpected = [
        r"^(text_model|text_projection|visual_projection|similarity|classifier)\."
    ]

    def __init__(self, config: ClipVitVisionConfig):
        super().__init__(config)
        if config.encoder_config is not None:
            raise ValueError(
                "encoder_config is for a classifier: load it with AutoModelForImageClassification"
            )
        self.embeddings = ClipVitVisionEmbeddings(config)
        self.encoder = ClipVitEncoder(config)
        self.final_norm = build_final_norm(config)
        self.pooling = build_pooling(config, IMAGE_POOLINGS)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode images, all of one shape or each of its own.

        Args:
            pixel_values: normalised pixels, (B, channels, height, width); or for images of
                different shapes, what Transformers' `Siglip2ImageProcessor` makes of them:
                flattened patches, padded, (B, L, patch_size * patch_size * channels).
            interpolate_pos_encoding: accept images of another size than `config.image_size`.
            pixel_attention_mask: 1 for a patch, 0 for padding, (B, L); with patches only.
            spatial_shapes: rows and columns of patches of each image, (B, 2); with patches only.

        Returns:
            `last_hidden_state` (B, L, D), after the final norm if that comes before pooling, and
            `pooler_output` (B, config.pooled_size).

        Raises:
            ValueError: no images, or images of a shape that this model does not take.
        """
        if pixel_values is None:
            raise ValueError("pixel_values is missing: this model needs images")
        config = self.config
        hidden_BLD, places_BL2, mask_BL = self.embeddings(
            pixel_values, interpolate_pos_encoding, pixel_attention_mask, spatial_shapes
        )
        attention_mask = None
        if mask_BL is not None:
            attention_mask = create_bidirectional_mask(
                config=config, inputs_embeds=hidden_BLD, attention_mask=mask_BL
            )
        hidden_BLD = self.encoder(
            hidden_BLD,
            attention_mask,
            token_mask=mask_BL,
            rotation=build_rotation(config, places_BL2),
            **kwargs,
        )
        if config.final_norm == "before_pooling":
            hidden_BLD = self.final_norm(hidden_BLD, mask_BL)
        first = config.first_pooled_token
        pooled_BD = self.pooling(
            hidden_BLD[:, first:], None if mask_BL is None else mask_BL[:, first:]
        )
        if config.final_norm == "after_pooling":
            pooled_BD = self.final_norm(pooled_BD)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_BLD, pooler_output=pooled_BD)


class ClipVitTextModel(ClipVitPreTrainedModel):
    """The text tower: token ids to token states and one pooled vector."""

    config: ClipVitTextConfig
    config_class = ClipVitTextConfig
    base_model_prefix = "text_model"
    input_modalities = ["text"]
    _input_embed_layer = "token_embedding"
    _keys_to_ignore_on_load_unexpected = [
        r"^(vision_model|text_projection|visual_projection|similarity)\."
    ]

    def __init__(self, config: ClipVitTextConfig):
        super().__init__(config)
        self.embeddings = ClipVitTextEmbeddings(config)
        self.encoder = ClipVitEncoder(config)
        self.final_norm = build_final_norm(config)
        self.pooling = build_pooling(config, TEXT_POOLINGS)
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs(tie_last_hidden_states=False)
    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        packed_places: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode texts.

        Args:
            input_ids: token ids, (B, L).
            attention_mask: 1 for a token, 0 for padding, (B, L); without it, every token counts.
            position_ids: positions, (B, L), instead of counting from 0.
            token_type_ids: ignored; many tokenizers make them, and this tower has none.
            packed_places: how texts share rows within the encoder, as `packing.pack` takes them,
                (R, W); it changes the time and not the result. For eager and sdpa attention only.

        Returns:
            `last_hidden_state` (B, L, D), after the final norm if that comes before pooling, and
            `pooler_output` (B, D).

        Raises:
            ValueError: no token ids, or a text longer than the positions.
        """
        if input_ids is None:
            raise ValueError("input_ids is missing: this model needs texts")
        hidden_BLD, places_BL = self.embeddings(input_ids, attention_mask, position_ids)
        if packed_places is not None:
            hidden_BLD = self._encode_packed(hidden_BLD, places_BL, packed_places, **kwargs)
        else:
            hidden_BLD = self.encoder(
                hidden_BLD,
                self._attention_mask(hidden_BLD, attention_mask),
                token_mask=attention_mask,
                rotation=build_rotation(self.config, places_BL.unsqueeze(-1)),
                **kwargs,
            )
        if self.config.final_norm == "before_pooling":
            hidden_BLD = self.final_norm(hidden_BLD, attention_mask)
        is_end_BL = ends_of_texts(input_ids, self.config.eos_token_id)
        pooled_BD = self.pooling(hidden_BLD, attention_mask, is_end_BL)
        if self.config.final_norm == "after_pooling":
            pooled_BD = self.final_norm(pooled_BD)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_BLD, pooler_output=pooled_BD)

    def _attention_mask(
        self, hidden_BLD: torch.Tensor, attention_mask: torch.Tensor | None
    ) -> torch.Tensor | None:
        if self.config.is_causal:
            return create_causal_mask(
                config=self.config,
                inputs_embeds=hidden_BLD,
                attention_mask=attention_mask,
                **{CACHE_ARGUMENT: None},
            )
        return create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_BLD, attention_mask=attention_mask
        )

    def _encode_packed(
        self,
        hidden_BLD: torch.Tensor,
        places_BL: torch.Tensor,
        packed_RW: torch.Tensor,
        **kwargs,
    ) -> torch.Tensor:
        batch, length, _ = hidden_BLD.shape
        kernel = self.config._attn_implementation
        if kernel not in ("eager", "sdpa"):
            raise ValueError(f"packed_places is not allowed with {kernel!r}: use eager or sdpa")
        states_RWD = pack(hidden_BLD, packed_RW)
        mask = packed_attention_mask(
            packed_RW, length, self.config.is_causal, kernel, states_RWD.dtype
        )
        positions_RW1 = pack(places_BL.expand(batch, -1).unsqueeze(-1), packed_RW)
        states_RWD = self.encoder(
            states_RWD,
            mask,
            token_mask=(packed_RW >= 0).long(),
            rotation=build_rotation(self.config, positions_RW1),
            **kwargs,
        )
        return unpack(states_RWD, packed_RW, batch, length)


class ClipVitModel(ClipVitPreTrainedModel):
    """CLIP: images and texts in one space, in which matching ones are close."""

    config: ClipVitConfig
    config_class = ClipVitConfig
    _auto_classes = {
        "AutoModel": "modeling_clip_vit.ClipVitModel",
        "AutoModelForZeroShotImageClassification": "modeling_clip_vit.ClipVitModel",
    }

    def __init__(self, config: ClipVitConfig):
        super().__init__(config)
        self.vision_model = build_tower(config.vision_config, ClipVitVisionModel)
        self.text_model = build_tower(config.text_config, ClipVitTextModel)
        self.visual_projection = build_projection(
            config.vision_config, pooled_size(self.vision_model)
        )
        self.text_projection = build_projection(config.text_config, pooled_size(self.text_model))
        self.similarity = ClipVitSimilarity(config)
        self.post_init()

    @classmethod
    def from_vision_text_pretrained(
        cls,
        vision_path: str | None,
        text_path: str | None,
        vision_fields: dict | None = None,
        text_fields: dict | None = None,
        config: ClipVitConfig | None = None,
        **fields,
    ) -> "ClipVitModel":
        """Join two towers that were trained apart; the projections are new.

        Args:
            vision_path: a checkpoint of an image encoder, or of a joint model with one; None for
                a new tower with the configuration in `config`.
            text_path: the same for a text encoder.
            vision_fields, text_fields: fields of a tower's configuration to change, such as
                `pooling`, `projection_type` or dropouts.
            config: the configuration of everything else; the defaults when None.
            fields: fields of `config` to change, such as `projection_dim`.

        Example:
            >>> model = ClipVitModel.from_vision_text_pretrained(
            ...     "facebook/dinov2-small", "hfl/chinese-roberta-wwm-ext", projection_dim=256
            ... )
        """
        config = copy.deepcopy(config or ClipVitConfig())
        towers = {}
        if vision_path:
            towers["vision"] = load_tower(vision_path, "vision_config", vision_fields or {})
        if text_path:
            towers["text"] = load_tower(text_path, "text_config", text_fields or {})
        fields = {
            **{name: getattr(config, name) for name in JOINT_FIELDS},
            **{f"{name}_config": tower.config for name, tower in towers.items()},
            **fields,
        }
        model = cls(ClipVitConfig(**fields))
        for name, tower in towers.items():
            model.get_submodule(f"{name}_model").load_state_dict(tower.state_dict())
        return model.eval()

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
        self,
        pixel_values: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        vision_pooler_output: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode images: `pooler_output` is the projection, (B, P), not yet normalised.

        `vision_pooler_output` (B, D) is what the tower has already made of the images; it replaces
        all other arguments.
        """
        if vision_pooler_output is not None:
            projected_BP = self.visual_projection(vision_pooler_output)
            return BaseModelOutputWithPooling(pooler_output=projected_BP)
        inputs = {
            "pixel_values": pixel_values,
            "interpolate_pos_encoding": interpolate_pos_encoding,
            "pixel_attention_mask": pixel_attention_mask,
            "spatial_shapes": spatial_shapes,
        }
        outputs = run_tower(self.vision_model, inputs, **kwargs)
        outputs.pooler_output = self.visual_projection(outputs.pooler_output)
        return outputs

    @can_return_tuple
    def get_text_features(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        packed_places: torch.Tensor | None = None,
        text_pooler_output: torch.Tensor | None = None,
        **kwargs,
    ) -> BaseModelOutputWithPooling:
        """Encode texts: `pooler_output` is the projection, (B, P), not yet normalised.

        `text_pooler_output` (B, D) is what the tower has already made of the texts; it replaces all
        other arguments.

        Without `position_ids`, texts longer than the positions are truncated, with a warning:
        pipelines of Transformers leave that to the model.
        """
        if text_pooler_output is not None:
            projected_BP = self.text_projection(text_pooler_output)
            return BaseModelOutputWithPooling(pooler_output=projected_BP)
        if position_ids is None and input_ids is not None and self._is_too_long(input_ids):
            longest = self.config.text_config.max_position_embeddings
            logger.warning_once(f"texts are truncated to {longest} tokens, this model's maximum")
            input_ids, attention_mask = cut_texts(input_ids, attention_mask, longest)
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "token_type_ids": token_type_ids,
        }
        if packed_places is not None:
            inputs["packed_places"] = packed_places
        outputs = run_tower(self.text_model, inputs, **kwargs)
        outputs.pooler_output = self.text_projection(outputs.pooler_output)
        return outputs

    def _is_too_long(self, input_ids: torch.Tensor) -> bool:
        config = self.config.text_config
        if is_foreign(config):
            return False
        return input_ids.shape[1] > config.max_position_embeddings

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
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        return_logits: bool = True,
        packed_places: torch.Tensor | None = None,
        vision_pooler_output: torch.Tensor | None = None,
        text_pooler_output: torch.Tensor | None = None,
        on_text_embeds: Callable[[torch.Tensor], None] | None = None,
        **kwargs,
    ) -> CLIPOutput:
        """Encode images and texts, and compare every image with every text.

        Args:
            input_ids: token ids, (B_text, L).
            pixel_values: normalised pixels, (B_image, channels, height, width).
            attention_mask: 1 for a token, 0 for padding, (B_text, L).
            position_ids: positions, (B_text, L), instead of counting from 0.
            token_type_ids: for text towers that have them, (B_text, L).
            return_loss: also compute the contrastive loss, image i belonging to text i: softmax
                (Radford et al., 2021), or pairwise sigmoid where the configuration has a logit
                bias (Zhai et al., 2023).
            return_logits: also compute the logits; losses that compute them do not need this.
            packed_places: how texts share rows, as `ClipVitTextModel.forward` takes them.
            interpolate_pos_encoding: accept images of another size than the configuration's.
            pixel_attention_mask, spatial_shapes: with images of different shapes, as
                `ClipVitVisionModel.forward` takes them.
            vision_pooler_output, text_pooler_output: pooled outputs of the towers, (B_image, D) and
                (B_text, D), in place of their inputs.
            on_text_embeds: called with the normalised text embeddings, (B_text, P), before images
                are encoded: what it begins, such as sending them, takes place meanwhile.

        Returns:
            `loss`, `logits_per_image` (B_image, B_text), `logits_per_text`, `image_embeds` and
            `text_embeds` (B, P) of length 1, and both towers' outputs.

        Raises:
            ValueError: an input is missing or of a shape that this model does not take.
        """

        def encode_texts() -> tuple[BaseModelOutputWithPooling, torch.Tensor]:
            outputs = self.get_text_features(
                input_ids=input_ids,
                attention_mask=attention_mask,
                position_ids=position_ids,
                token_type_ids=token_type_ids,
                packed_places=packed_places,
                text_pooler_output=text_pooler_output,
                return_dict=True,
                **kwargs,
            )
            return outputs, nn.functional.normalize(outputs.pooler_output, dim=-1)

        encoded_texts = None
        if on_text_embeds is not None:
            encoded_texts = encode_texts()
            on_text_embeds(encoded_texts[1])
        vision_outputs = self.get_image_features(
            pixel_values=pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            pixel_attention_mask=pixel_attention_mask,
            spatial_shapes=spatial_shapes,
            vision_pooler_output=vision_pooler_output,
            return_dict=True,
            **kwargs,
        )
        text_outputs, text_embeds_BP = encoded_texts or encode_texts()
        image_embeds_BP = nn.functional.normalize(vision_outputs.pooler_output, dim=-1)
        logits_per_text, loss = None, None
        if return_logits or return_loss:
            logits_per_text = self.similarity(text_embeds_BP, image_embeds_BP)
        if return_loss and logits_per_text is not None:
            loss = self._contrast(logits_per_text)
        return CLIPOutput(
            loss=loss,
            logits_per_image=None if logits_per_text is None else logits_per_text.t(),
            logits_per_text=logits_per_text,
            text_embeds=text_embeds_BP,
            image_embeds=image_embeds_BP,
            text_model_output=text_outputs,
            vision_model_output=vision_outputs,
        )

    def _contrast(self, logits_BB: torch.Tensor) -> torch.Tensor:
        if self.get_logit_bias() is None:
            right_B = torch.arange(logits_BB.shape[0], device=logits_BB.device)
            losses = [
                nn.functional.cross_entropy(rows, right_B) for rows in (logits_BB, logits_BB.t())
            ]
            return (losses[0] + losses[1]) / 2
        signs_BB = 2 * torch.eye(logits_BB.shape[0], device=logits_BB.device) - 1
        return -nn.functional.logsigmoid(signs_BB * logits_BB).sum(dim=1).mean()


Output = TypeVar("Output", CLIPVisionModelOutput, CLIPTextModelOutput)


def project_output(
    output_class: type[Output],
    name: str,
    projection: nn.Module,
    outputs: BaseModelOutputWithPooling,
) -> Output:
    """The output of a tower with projection: the projected embedding as `name`, and its states."""
    return output_class(
        **{name: projection(outputs.pooler_output)},
        last_hidden_state=outputs.last_hidden_state,
        hidden_states=outputs.hidden_states,
        attentions=outputs.attentions,
    )


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
        self.visual_projection = build_projection(config, config.pooled_size)
        self.post_init()

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
        return project_output(
            CLIPVisionModelOutput, "image_embeds", self.visual_projection, outputs
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
        self.text_projection = build_projection(config, config.pooled_size)
        self.post_init()

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
        return project_output(CLIPTextModelOutput, "text_embeds", self.text_projection, outputs)


class ClipVitForImageClassification(ClipVitPreTrainedModel):
    """An image tower with a linear classifier on its pooled output.

    The tower is our ViT, or an encoder of another type by `config.encoder_config`.
    """

    config: ClipVitVisionConfig
    config_class = ClipVitVisionConfig
    base_model_prefix = "vision_model"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    _auto_class = "AutoModelForImageClassification"
    _auto_classes = {
        "AutoModel": "modeling_clip_vit.ClipVitVisionModel",
        "AutoModelForImageClassification": "modeling_clip_vit.ClipVitForImageClassification",
    }
    _keys_to_ignore_on_load_unexpected = [
        r"^(text_model|text_projection|visual_projection|similarity)\."
    ]

    def __init__(self, config: ClipVitVisionConfig):
        super().__init__(config)
        self.vision_model = build_tower(config.encoder_config or config, ClipVitVisionModel)
        self.classifier = nn.Linear(pooled_size(self.vision_model), config.num_labels or 1)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        vision_pooler_output: torch.Tensor | None = None,
        pixel_attention_mask: torch.Tensor | None = None,
        spatial_shapes: torch.Tensor | None = None,
        **kwargs,
    ) -> ImageClassifierOutput:
        """Classify images: `logits` (B, config.num_labels), and with `labels` also the `loss`.

        Args:
            pixel_values: normalised pixels, (B, channels, height, width).
            labels: class ids, (B,), or the targets of `config.problem_type`.
            interpolate_pos_encoding: accept images of another size than `config.image_size`.
            vision_pooler_output: pooled output of the tower, (B, D), in place of its inputs.
            pixel_attention_mask, spatial_shapes: with images of different shapes, as
                `ClipVitVisionModel.forward` takes them.
        """
        outputs = BaseModelOutputWithPooling(pooler_output=vision_pooler_output)
        if vision_pooler_output is None:
            inputs = {
                "pixel_values": pixel_values,
                "interpolate_pos_encoding": interpolate_pos_encoding,
                "pixel_attention_mask": pixel_attention_mask,
                "spatial_shapes": spatial_shapes,
            }
            outputs = run_tower(self.vision_model, inputs, **kwargs)
        logits = self.classifier(outputs.pooler_output)
        return ImageClassifierOutput(
            loss=None if labels is None else self.loss_function(labels, logits, self.config),
            logits=logits,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )


__all__ = [
    "ClipVitForImageClassification",
    "ClipVitModel",
    "ClipVitPreTrainedModel",
    "ClipVitTextModel",
    "ClipVitTextModelWithProjection",
    "ClipVitVisionModel",
    "ClipVitVisionModelWithProjection",
]
