"""Move weights between two implementations by rules that say which belong together."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import inf, nextafter

import torch
from torch import nn

from ..configuration_clip_vit import is_foreign
from ..utils.errors import UserError


class ConversionError(UserError):
    """A model that cannot be converted without loss; the message is one clear sentence."""


@dataclass(frozen=True)
class Rule:
    """Weights of ours and of a peer that hold the same numbers.

    Args:
        ours, theirs: names of tensors; several are stacked along their first axis, in this order.
        is_transposed: whether a matrix of theirs is the transpose of ours.
    """

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    is_transposed: bool = False


def same(ours: str, theirs: str) -> list[Rule]:
    """One tensor each."""
    return [Rule((ours,), (theirs,))]


def module(ours: str, theirs: str) -> list[Rule]:
    """Weight and bias of a module, if it has them."""
    return [Rule((f"{ours}.{kind}",), (f"{theirs}.{kind}",)) for kind in ("weight", "bias")]


def stacked(ours: Iterable[str], theirs: Iterable[str]) -> list[Rule]:
    """Weights and biases of modules whose outputs stand side by side."""
    return [
        Rule(tuple(f"{name}.{kind}" for name in ours), tuple(f"{name}.{kind}" for name in theirs))
        for kind in ("weight", "bias")
    ]


def blocks(count: int, ours: str, theirs: str, modules: dict[str, str]) -> list[Rule]:
    """Modules of every block of a stack; `modules` maps a block's names, ours to theirs."""
    return [
        rule
        for layer in range(count)
        for mine, other in modules.items()
        for rule in module(f"{ours}.{layer}.{mine}", f"{theirs}.{layer}.{other}")
    ]


def move_weights(
    source: nn.Module,
    target: nn.Module,
    rules: list[Rule],
    to_ours: bool,
    changed: dict[str, torch.Tensor] | None = None,
    left_out: str = "",
):
    """Fill a model with the weights of another.

    Args:
        source: where the weights come from.
        target: what they go into.
        rules: which belong together.
        to_ours: whether the target is ours.
        changed: tensors by name that replace or extend those of the source.
        left_out: what the names of weights of the source begin with that nothing needs.

    Raises:
        ConversionError: a weight of either model has no counterpart in the other.
    """
    state, wanted = {**source.state_dict(), **(changed or {})}, target.state_dict()
    result: dict[str, torch.Tensor] = {}
    used: set[str] = set()
    for rule in rules:
        sources, targets = (rule.theirs, rule.ours) if to_ours else (rule.ours, rule.theirs)
        if not all(name in state for name in sources):
            continue
        if not all(name in wanted for name in targets):
            continue
        used.update(sources)
        result.update(fill(rule, [state[name] for name in sources], sources, targets, wanted))
    # Buffers of a peer, such as masks and position ids, are made anew from its configuration.
    weights = {name for name, weight in source.named_parameters() if weight.numel()}
    homeless = sorted(
        name for name in weights - used if not left_out or not name.startswith(left_out)
    )
    missing = sorted(set(wanted) - set(result))
    missing = [name for name in missing if name in dict(target.named_parameters())]
    if homeless or missing:
        raise ConversionError(
            f"weights without a place: {', '.join(homeless) or 'none'}; weights that nothing "
            f"fills: {', '.join(missing) or 'none'}"
        )
    target.load_state_dict(result, strict=False)


def fill(
    rule: Rule, parts: list[torch.Tensor], sources, targets, wanted: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The tensors that a rule gives, by name.

    Raises:
        ConversionError: they are of another size than those that it fills.
    """
    whole = torch.cat(parts) if len(parts) > 1 else parts[0]
    if rule.is_transposed:
        whole = whole.t()
    sizes = [wanted[name].numel() for name in targets]
    if whole.numel() != sum(sizes):
        raise ConversionError(
            f"{', '.join(sources)} has {whole.numel()} numbers, but "
            f"{', '.join(targets)} takes {sum(sizes)}"
        )
    split = whole.flatten().split(sizes)
    return {
        name: part.reshape(wanted[name].shape) for name, part in zip(targets, split, strict=True)
    }


def take(config, names: Iterable[str]) -> dict:
    """Some fields of a configuration, by name."""
    return {name: getattr(config, name) for name in names}


def ratio(part: int, whole: int) -> float:
    """The number that `int(whole * ratio)` turns back into `part`, as peers compute a width."""
    value = part / whole
    return value if int(whole * value) == part else nextafter(value, inf)


def require_fields(config, expected: dict, peer: str):
    """Check that a peer can represent a configuration.

    Raises:
        ConversionError: it cannot; the message names the fields.
    """
    if is_foreign(config):
        raise ConversionError(f"{peer} cannot hold a tower of type {config.model_type!r}")
    wrong = [
        f"{name}={getattr(config, name)!r} (it has {value!r})"
        for name, value in expected.items()
        if getattr(config, name) != value
    ]
    if wrong:
        raise ConversionError(f"{peer} cannot hold {', '.join(wrong)}")


#: What CLIP, SigLIP and ViT of all peers have in common.
CLASSIC = {
    "attention_type": "softmax",
    "attention_gate": "none",
    "value_residual": False,
    "qk_norm": False,
    "mlp_type": "mlp",
    "mlp_bias": True,
    "norm_type": "layernorm",
    "norm_placement": "pre",
    "layer_scale_init_value": None,
    "position_embedding_type": "learned",
    "attention_q_bias": True,
    "attention_k_bias": True,
    "attention_v_bias": True,
    "attention_out_bias": True,
}


def require_classic(config, expected: dict, peer: str, options: Iterable[str] = ()):
    """Check a tower against `CLASSIC`, full heads, and what else a peer has.

    Args:
        config: configuration of the tower.
        expected: fields for which the peer supports a single value, if not the classic one.
        peer: its name, for the message.
        options: fields of `CLASSIC` that the peer has in more than one way.

    Raises:
        ConversionError: the peer cannot hold it; the message names the fields.
    """
    if not is_foreign(config):
        heads = config.num_attention_heads
        full = {"num_key_value_heads": heads, "head_dim": config.hidden_size // heads}
        if hasattr(config, "position_interpolation"):
            full["position_interpolation"] = "bicubic"
        fixed = {name: value for name, value in CLASSIC.items() if name not in options}
        expected = {**fixed, **full, **expected}
    require_fields(config, expected, peer)
