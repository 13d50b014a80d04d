"""Two-tower models of Transformers whose towers stay what they are, as towers of another type."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..configuration_clip_vit import FOREIGN_FIELDS, ClipVitConfig
from ..modeling_clip_vit import ClipVitModel
from .peer_checkpoints import Checkpoint, model_of
from .weights import ConversionError, Rule, module, move_weights, same

#: Our name of a weight -> theirs, where the peer stores a logarithm, as we do.
LOG_SCALE = {"similarity.logit_scale": "logit_scale"}
#: The same, where it stores a temperature, the inverse of the scale.
TEMPERATURE = {"similarity.logit_scale": "temperature"}


@dataclass(frozen=True)
class KeptTowers:
    """A two-tower model of Transformers, described by what is around its towers.

    Args:
        model_class: the joint model.
        name: what messages call it.
        vision, text: how its towers are pooled and projected: the fields that our joint model
            adds to their configurations.
        joint: fields of our joint configuration, of theirs.
        peer_joint: fields of their joint configuration, of ours.
        has_temperature: whether it divides by a temperature rather than multiply by a scale.
    """

    model_class: type[PreTrainedModel]
    name: str
    vision: dict[str, Any]
    text: dict[str, Any]
    joint: Callable[[Any], dict[str, Any]]
    peer_joint: Callable[[ClipVitConfig], dict[str, Any]]
    has_temperature: bool = False


def from_kept(kept: KeptTowers, source: PreTrainedModel | Checkpoint) -> ClipVitModel:
    """A model of Transformers, or a checkpoint of one, as one of ours with the same towers.

    Raises:
        ConversionError: a weight has no counterpart in the other model.
        ValueError: a checkpoint lacks weights or has unexpected ones.
    """
    peer = model_of(kept.model_class, source)
    config = ClipVitConfig(
        vision_config=kept_config(peer.config.vision_config, kept.vision),
        text_config=kept_config(peer.config.text_config, kept.text),
        **kept.joint(peer.config),
    )
    model = ClipVitModel(config)
    changed = {"temperature": inverse_log(peer.temperature)} if kept.has_temperature else None
    move_weights(peer, model, kept_rules(kept, model), to_ours=True, changed=changed)
    return model.to(peer.dtype).eval()


def to_kept(kept: KeptTowers, model: ClipVitModel) -> Any:
    """One of ours that has the towers of a model of Transformers, as that model.

    Raises:
        ConversionError: its towers are of another type, or pooled or projected in another way.
    """
    config: Any = model.config
    config_class: Any = kept.model_class.config_class
    types = config_class.sub_configs
    for part, fields in (("vision_config", kept.vision), ("text_config", kept.text)):
        require_kept(getattr(config, part), types.get(part), fields, kept.name)
    towers = {part: kept_fields(getattr(config, part)) for part in ("vision_config", "text_config")}
    peer: Any = kept.model_class(config_class(**towers, **kept.peer_joint(config)))
    scale = model.similarity.logit_scale
    changed = {"similarity.logit_scale": (-scale).exp()} if kept.has_temperature else None
    move_weights(model, peer, kept_rules(kept, model), to_ours=False, changed=changed)
    return peer.to(model.dtype).eval()


def kept_config(config: PreTrainedConfig, fields: dict[str, Any]) -> PreTrainedConfig:
    """A copy of a tower's configuration, with the fields that a joint model of ours adds."""
    config = copy.deepcopy(config)
    for name, value in {**FOREIGN_FIELDS, **fields}.items():
        setattr(config, name, value)
    return config


def kept_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a tower's configuration without those that a joint model of ours adds."""
    own = type(config)().to_dict()
    added = {*FOREIGN_FIELDS, "projection_dim"} - own.keys()
    return {name: value for name, value in config.to_dict().items() if name not in added}


def require_kept(
    config: PreTrainedConfig,
    config_class: type[PreTrainedConfig] | None,
    fields: dict[str, Any],
    peer: str,
):
    """Check that a peer has such a tower.

    Args:
        config: of our tower.
        config_class: the type of tower that the peer has; None where it takes any.
        fields: how it pools and projects.
        peer: its name, for the message.

    Raises:
        ConversionError: it has none such; the message names the type or the fields.
    """
    expected = getattr(config_class, "model_type", "") or config.model_type
    if config.model_type != expected:
        raise ConversionError(
            f"{peer} cannot hold a tower of type {config.model_type!r}: it has one of {expected!r}"
        )
    wrong = [
        f"{name}={getattr(config, name, None)!r} (it has {value!r})"
        for name, value in {**FOREIGN_FIELDS, **fields}.items()
        if getattr(config, name, None) != value
    ]
    if wrong:
        raise ConversionError(f"{peer} cannot hold {', '.join(wrong)}")


def kept_rules(kept: KeptTowers, model: ClipVitModel) -> list[Rule]:
    """Which weights belong together: the same names but for the scale."""
    scale = TEMPERATURE if kept.has_temperature else LOG_SCALE
    return [
        *(rule for ours, theirs in scale.items() for rule in same(ours, theirs)),
        *module("visual_projection", "visual_projection"),
        *module("text_projection", "text_projection"),
        *tower_rules(model.vision_model, "vision_model"),
        *tower_rules(model.text_model, "text_model"),
    ]


def tower_rules(tower: nn.Module, name: str) -> list[Rule]:
    """A tower's weights and statistics, with the same names on both sides."""
    return [rule for key in tower.state_dict() for rule in same(f"{name}.{key}", f"{name}.{key}")]


def inverse_log(temperature: torch.Tensor) -> torch.Tensor:
    """The logarithm of the scale that a temperature is the inverse of."""
    return -temperature.detach().log()
