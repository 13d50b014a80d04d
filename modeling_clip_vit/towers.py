"""Towers of other model types: any image or text encoder of Transformers besides our own.

Shape legend: `B` batch, `L` sequence, `D` hidden.
"""

import inspect
from typing import Any

import torch
from transformers import AutoConfig, AutoModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import PreTrainedModel

from .configuration_clip_vit import FOREIGN_FIELDS, is_foreign
from .pooling import TEXT_POOLINGS, pool_cls, pool_mean
from .pretrained import load_with_report, refuse_misfits

#: What pools the images of a tower of another model type; texts are pooled as our own are.
IMAGE_POOLINGS: dict[str, Any] = {"cls": pool_cls, "mean": pool_mean}


def build_tower(config, own_class: type[PreTrainedModel]) -> PreTrainedModel:
    """A tower with random weights: of `own_class`, or of another model type."""
    if is_foreign(config):
        return AutoModel.from_config(config)
    return own_class._from_config(config)


def pooled_size(tower: PreTrainedModel) -> int:
    """Size of what a tower's pooling gives.

    Raises:
        ValueError: the tower of another model type does not tell its size.
    """
    if not is_foreign(tower.config):
        return tower.config.pooled_size
    size = getattr(tower.config, "hidden_size", None)
    if size is None and getattr(tower.config, "hidden_sizes", None):
        size = tower.config.hidden_sizes[-1]  # a network of stages
    if size is None:
        size = getattr(getattr(tower, "timm_model", None), "num_features", None)
    if size is None:
        raise ValueError(
            f"a tower of type {tower.config.model_type!r} has no hidden_size: it cannot be "
            "projected; give another vision_config or text_config"
        )
    return size


def run_tower(tower: PreTrainedModel, inputs: dict, **kwargs) -> BaseModelOutputWithPooling:
    """Encode with a tower of any type, and pool as its configuration says.

    Args:
        tower: the model.
        inputs: what our own towers take. Of these, another type gets what its `forward` names.

    Raises:
        ValueError: an input is missing that the tower needs.
    """
    if not is_foreign(tower.config):
        return tower(**inputs, **kwargs, return_dict=True)
    accepted = inspect.signature(tower.forward).parameters
    given = {name: value for name, value in inputs.items() if value is not None}
    required = "input_ids" if "input_ids" in inputs else "pixel_values"
    if required not in given:
        raise ValueError(f"{required} is missing: this model needs it")
    inputs = {name: value for name, value in given.items() if name in accepted}
    outputs = tower(**inputs, **kwargs, return_dict=True)
    return BaseModelOutputWithPooling(
        last_hidden_state=outputs.last_hidden_state,
        pooler_output=pool_foreign(tower.config, outputs, given),
        hidden_states=outputs.get("hidden_states"),
        attentions=outputs.get("attentions"),
    )


def pool_foreign(config, outputs, inputs: dict) -> torch.Tensor:
    """Pool the output of a tower of another model type: (B, D)."""
    hidden_BLD = outputs.last_hidden_state
    if config.pooling is None and outputs.get("pooler_output") is not None:
        return outputs.pooler_output.flatten(1)
    if "input_ids" not in inputs:
        if hidden_BLD.ndim == 4:  # a convolutional network's map
            hidden_BLD = hidden_BLD.flatten(2).transpose(1, 2)
        return IMAGE_POOLINGS[config.pooling or "mean"](hidden_BLD)
    pool: Any = TEXT_POOLINGS[config.pooling or "mean"]
    is_end_BL = inputs["input_ids"] == config.eos_token_id
    return pool(hidden_BLD, inputs.get("attention_mask"), is_end_BL)


def change_fields(config: PreTrainedConfig, fields: dict):
    """Change fields of a configuration: of a tower, or of a joint model.

    If every head has its own keys, that stays so when the number of heads changes.

    Raises:
        ValueError: there is no such field, or its value is not allowed.
    """
    heads = getattr(config, "num_attention_heads", None)
    if "num_attention_heads" in fields and getattr(config, "num_key_value_heads", None) == heads:
        fields = {"num_key_value_heads": fields["num_attention_heads"], **fields}
    for name, value in fields.items():
        if not hasattr(config, name) and name not in FOREIGN_FIELDS:
            raise ValueError(
                f"{name}={value!r} is not allowed: a {config.model_type} has no such field"
            )
        setattr(config, name, value)
    config.validate()


def load_tower(path: str, part: str, fields: dict) -> PreTrainedModel:
    """One tower with its weights, from a checkpoint of it alone or of a joint model.

    Args:
        path: a folder or the id of a model on the Hub.
        part: `vision_config` or `text_config`: what to take of a joint model.
        fields: fields of its configuration to change.

    Raises:
        ValueError: its configuration has no such field, or the checkpoint lacks weights of it.
    """
    config = AutoConfig.from_pretrained(path)
    config = getattr(config, part, None) or config
    change_fields(config, fields)
    tower, found = load_with_report(AutoModel, path, config=config)
    # Heads, and the other tower of a joint model, are left behind on purpose; and a pooler is not
    # missed where the tower is pooled in another way.
    found["unexpected_keys"] = set()
    if is_foreign(config) and getattr(config, "pooling", None) is not None:
        found["missing_keys"] = {key for key in found["missing_keys"] if "pooler" not in key}
    refuse_misfits(path, tower, found)
    return tower
