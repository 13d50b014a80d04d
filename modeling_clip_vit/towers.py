"""Towers of any type: our own, or any image or text encoder of Transformers.

Shape legend: `B` batch, `L` sequence, `D` hidden.
"""

import inspect
from collections.abc import Callable
from difflib import get_close_matches
from functools import cache
from typing import Any, cast

import torch
import transformers
from timm.layers import resample_abs_pos_embed
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    AutoModelForImageClassification,
)
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput, BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel
from transformers.utils import logging

from .configuration_clip_vit import FOREIGN_FIELDS, is_foreign
from .pooling import Pooling, ends_of_texts, pool_cls, pool_eos, pool_last, pool_mean
from .pretrained import load_with_report, refuse_misfits

logger = logging.get_logger(__name__)

#: `pooling` of a tower of another model type -> the function. Those with weights are ours alone.
FOREIGN_POOLINGS: dict[str, Pooling] = {
    "cls": pool_cls,
    "mean": pool_mean,
    "eos": pool_eos,
    "last": pool_last,
}


#: Fields of other configurations that say the size of the pooled output, the first one of which
#: counts: AltCLIP projects its states, and a convolutional network may widen its last map.
SIZE_FIELDS = ("project_dim", "hidden_size", "hidden_dim")


def build_tower(config: PreTrainedConfig, own_class: type[PreTrainedModel]) -> PreTrainedModel:
    """A tower with random weights: of `own_class`, or of another model type.

    Nothing is downloaded. Of a model with encoder and decoder, the tower is the encoder. A model of
    timm (`model_type="timm_wrapper"`) knows its images; its configuration learns that here.
    """
    if not is_foreign(config):
        return own_class._from_config(config)
    if type(config) in MODEL_MAPPING:
        tower = AutoModel.from_config(config)
    else:
        tower = tower_class(config)._from_config(config)
    if getattr(config, "is_encoder_decoder", False):
        tower = tower.get_encoder()
    if hasattr(tower, "timm_model"):
        for name, value in images_of(tower.timm_model).items():
            for holder in (config, tower.config):
                if getattr(holder, name, None) is None:
                    setattr(holder, name, value)
    return tower


def tower_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class of a tower that AutoModel does not know, as of most joint models of Transformers.

    Raises:
        ValueError: there is none.
    """
    name = type(config).__name__.removesuffix("Config") + "Model"
    model_class = getattr(transformers, name, None)
    if model_class is None:
        raise ValueError(f"Transformers has no encoder of type {config.model_type!r}")
    return model_class


def images_of(timm_model: torch.nn.Module) -> dict[str, int]:
    """`image_size` and `num_channels` of the images that a model of timm was built for."""
    fields: Any = timm_model.pretrained_cfg  # type: ignore[attr-defined]
    channels, height, _ = fields["input_size"]
    size = getattr(getattr(timm_model, "patch_embed", None), "img_size", None)
    if size is not None:  # not necessarily that of the architecture's name
        height = size[0]
    return {"image_size": height, "num_channels": getattr(timm_model, "in_chans", channels)}


def pooled_size(tower: PreTrainedModel) -> int:
    """Size of a tower's pooled output.

    Raises:
        ValueError: the configuration of a tower of another model type does not say.
    """
    if not is_foreign(tower.config):
        return tower.config.pooled_size
    sizes = [getattr(tower.config, name, None) for name in SIZE_FIELDS]
    size = next((size for size in sizes if size is not None), None)
    if size is None and getattr(tower.config, "hidden_sizes", None):
        size = tower.config.hidden_sizes[-1]  # a network of stages
    if size is None and hasattr(tower, "timm_model"):
        size = tower.timm_model.head_hidden_size  # type: ignore[union-attr]
    if size is None:
        raise ValueError(
            f"a tower of type {tower.config.model_type!r} has no hidden_size, so its output cannot "
            "be projected: choose another vision_config or text_config"
        )
    return size


def run_tower(tower: PreTrainedModel, inputs: dict, **kwargs) -> BaseModelOutputWithPooling:
    """Encode with a tower of any type, and pool as its configuration says.

    Args:
        tower: the model.
        inputs: inputs of our own towers. Another type is passed those that its `forward` names.

    Raises:
        ValueError: an input is missing that the tower needs.
    """
    if not is_foreign(tower.config):
        return tower(**inputs, **kwargs, return_dict=True)
    required = "input_ids" if "input_ids" in inputs else "pixel_values"
    if inputs[required] is None:
        raise ValueError(f"{required} is missing: this model needs it")
    inputs = {name: value for name, value in inputs.items() if value is not None}
    accepted, needed = parameter_names(type(tower).forward)
    if needed - inputs.keys():
        raise ValueError(
            f"a tower of type {tower.config.model_type!r} also needs "
            f"{' and '.join(sorted(needed - inputs.keys()))}: prepare the input with the "
            "checkpoint's own processor"
        )
    outputs = tower(
        **{name: value for name, value in inputs.items() if name in accepted},
        **kwargs,
        return_dict=True,
    )
    return BaseModelOutputWithPooling(
        last_hidden_state=outputs.last_hidden_state,
        pooler_output=pool_foreign(tower.config, outputs, inputs),
        hidden_states=outputs.get("hidden_states"),
        attentions=outputs.get("attentions"),
    )


@cache
def parameter_names(function: Callable) -> tuple[frozenset[str], frozenset[str]]:
    """Names of all parameters of a method, and of those that must be given."""
    parameters = list(inspect.signature(function).parameters.values())[1:]
    needed = [
        one.name
        for one in parameters
        if one.default is one.empty and one.kind is one.POSITIONAL_OR_KEYWORD
    ]
    return frozenset(one.name for one in parameters), frozenset(needed)


def pool_foreign(
    config: PreTrainedConfig, outputs: BaseModelOutput, inputs: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Pool the output of a tower of another model type: (B, D)."""
    hidden_BLD = outputs.last_hidden_state
    assert hidden_BLD is not None
    pooled = outputs.get("pooler_output")
    if config.pooling is None and pooled is not None:
        return pooled.flatten(1)
    pool = FOREIGN_POOLINGS[config.pooling or "mean"]
    if "input_ids" not in inputs:
        if hidden_BLD.ndim == 4:  # a convolutional network's map
            hidden_BLD = hidden_BLD.flatten(2).transpose(1, 2)
        return pool(hidden_BLD)
    return pool(
        hidden_BLD,
        inputs.get("attention_mask"),
        ends_of_texts(inputs["input_ids"], config.eos_token_id),
    )


def change_fields(config: PreTrainedConfig, fields: dict):
    """Change fields of a configuration: of a tower, or of a joint model.

    If every query head has its own key head, that stays so when the number of heads changes.

    Raises:
        ValueError: there is no such field, or its value is not allowed.
    """
    heads = getattr(config, "num_attention_heads", None)
    if "num_attention_heads" in fields and getattr(config, "num_key_value_heads", None) == heads:
        fields = {"num_key_value_heads": fields["num_attention_heads"], **fields}
    for name, value in fields.items():
        if not hasattr(config, name) and name not in FOREIGN_FIELDS:
            close = get_close_matches(name, [*config.to_dict(), *FOREIGN_FIELDS], n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ValueError(
                f"{name}={value!r} is not allowed: a {config.model_type} has no such field{hint}"
            )
        setattr(config, name, value)
    config.validate()


def hold_image_size(config: PreTrainedConfig, former: int | None) -> int | None:
    """Let a checkpoint be loaded in its own image size, where its learned positions need that.

    Args:
        config: of a tower of any type, with another image size than the checkpoint's, or the same.
            It gets the checkpoint's again where the tower can be resized after loading.
        former: the image size of the checkpoint; None if its configuration does not say.

    Returns:
        The image size to pass to `resize_images` after loading, or None.
    """
    wanted = getattr(config, "image_size", None)
    has_backbone = getattr(config, "encoder_config", None) is not None
    if is_foreign(config) or has_backbone or former in (None, wanted):
        return None
    if config.position_embedding_type != "learned" or config.pooling == "flatten":
        return None
    config.image_size = former
    return wanted


def resize_images(tower: PreTrainedModel, image_size: int | None):
    """Give an image tower of ours another image size: interpolate its learned positions.

    Args:
        tower: that `hold_image_size` held; its configuration is changed.
        image_size: the size; None leaves the tower as it is.
    """
    if image_size is None:
        return
    config, embeddings = tower.config, cast(Any, tower).embeddings
    former, config.image_size = config.grid_size, image_size
    grid = [config.grid_size, config.grid_size]
    weight_LD = resample_abs_pos_embed(
        embeddings.position_embedding.weight.detach().unsqueeze(0),
        grid,
        [former, former],
        int(bool(config.use_cls_token)),
    ).squeeze(0)
    embeddings.position_embedding = torch.nn.Embedding.from_pretrained(weight_LD, freeze=False)
    logger.warning(
        "learned positions are interpolated from %d x %d to %d x %d patches",
        *(former, former, config.grid_size, config.grid_size),
    )


def load_tower(path: str, part: str, fields: dict) -> PreTrainedModel:
    """One tower with its weights, from a checkpoint of it alone or of a joint model.

    Args:
        path: a folder or the id of a model on the Hub.
        part: which tower of a joint model to load, `vision_config` or `text_config`.
        fields: fields of its configuration to change.

    Raises:
        ValueError: its configuration has no such field, or the checkpoint lacks some weights.
    """
    config = AutoConfig.from_pretrained(path)
    config = getattr(config, part, None) or config
    backbone = getattr(config, "encoder_config", None)
    former = getattr(config, "image_size", None)
    change_fields(backbone or config, fields)
    image_size = hold_image_size(config, former)
    if backbone is not None:  # in a classifier of ours, an encoder of another type
        classifier, report = load_with_report(AutoModelForImageClassification, path, config=config)
        refuse_misfits(path, classifier, report)
        return classifier.vision_model
    tower, report = load_with_report(AutoModel, path, config=config)
    # Heads and the other tower of a joint model are not loaded on purpose. Nor does a tower need
    # the weights of its own pooler if it is pooled in another way.
    report["unexpected_keys"] = set()
    if is_foreign(config) and getattr(config, "pooling", None) is not None:
        report["missing_keys"] = {key for key in report["missing_keys"] if "pooler" not in key}
    refuse_misfits(path, tower, report)
    resize_images(tower, image_size)
    return tower
