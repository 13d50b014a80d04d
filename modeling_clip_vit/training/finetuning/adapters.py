"""Adapters through PEFT: small matrices beside the weights, trained in place of them."""

import copy
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedModel

from ...pretrained import abbreviate_names
from ...utils.errors import UserError, first_line
from ...utils.from_pretrained import find_checkpoint
from ...utils.packages import require
from ..freezing import without_gradient
from .options import PEFT_TYPES, AdapterOptions

logger = logging.getLogger(__name__)

#: Folder of the adapter within that of the merged model.
ADAPTER_FOLDER = "adapter"
#: Names that the modules of a tower and its projection begin with, by tower.
TOWERS = {"vision": r"(vision_model|visual_projection)", "text": r"(text_model|text_projection)"}
#: The class head, which a run makes anew for its classes.
HEAD = "classifier"


class Adapter:
    """An adapter in a model: only its weights learn.

    PEFT puts its layers in place of the model's own, so the model stays the same object.

    Args:
        options: what to adapt, and how.
        model: changed in place.

    Raises:
        MissingPackageError: PEFT is not installed.
        UserError: an option is not allowed, matches nothing, or does not fit the model.
    """

    def __init__(self, options: AdapterOptions, model: PreTrainedModel):
        require(("peft",), "peft", "training an adapter")
        from peft import get_peft_model

        self.base = str(model.name_or_path)
        if Path(self.base).is_dir():
            self.base = str(Path(self.base).resolve())
        path = options.adapter_name_or_path
        self.config = load_config(path) if path else build_config(options, model)
        trained_on, self.config.base_model_name_or_path = self.config.base_model_name_or_path, None
        what = f"the adapter {path!r}" if path else "the adapter that the recipe describes"
        with fitting(what, self.base), unchanged_weights(model, what):
            # PEFT writes what it found into the configuration.
            self.peft = get_peft_model(model, copy.deepcopy(self.config))
        check_saved_modules(model, self.config.modules_to_save or [])
        if path:
            load_weights(self.peft, path, self.base)
            if trained_on != self.base:
                logger.warning(
                    "%s was trained on %s, and goes on with %s", what, trained_on, self.base
                )

    def frozen(self, towers: list[PreTrainedModel]) -> list[nn.Module]:
        """The modules of the towers that do not learn, such as batch norms."""
        return [module for tower in towers for module in without_gradient(tower)]

    def extend(self, model: PreTrainedModel) -> Any:
        """Put the same layers, with new weights, into another model; returns PEFT's model of it."""
        from peft import get_peft_model

        return get_peft_model(model, copy.deepcopy(self.config))

    def merge(self, trained: PreTrainedModel) -> PreTrainedModel:
        """A model without adapter that computes the same.

        Args:
            trained: the model with its adapter and with all of its weights, not sharded. What it
                holds is what `save` writes from now on.
        """
        model = type(trained)(copy.deepcopy(trained.config))
        self.peft = self.extend(model)
        model.load_state_dict(trained.state_dict())
        self.peft.to(trained.device)
        return copy.deepcopy(self.peft).merge_and_unload().requires_grad_(True)

    def save(self, folder: Path):
        """Write the adapter as PEFT does, for `PeftModel.from_pretrained`."""
        self.peft.peft_config["default"].base_model_name_or_path = self.base
        self.peft.save_pretrained(str(folder), save_embedding_layers=False)


def build_config(options: AdapterOptions, model: PreTrainedModel) -> Any:
    """PEFT's configuration for the options.

    Raises:
        UserError: PEFT has no such field, or the targets match nothing.
    """
    from peft import get_peft_config

    check_targets(model, options.adapter_targets)
    heads = [HEAD] if hasattr(model, HEAD) else []
    values: dict[str, Any] = {
        "peft_type": options.peft_type,
        "target_modules": options.adapter_targets,
        "modules_to_save": [*heads, *options.modules_to_save] or None,
    }
    if options.peft_type == "LORA":
        values |= lora_fields(options)
    if options.peft_type == "IA3":
        values["feedforward_modules"] = []
    for name in options.peft_fields:
        if name in values and name != "feedforward_modules":
            raise UserError(
                f"peft_fields={options.peft_fields} is not allowed: {name} follows from peft_type, "
                "adapter_targets, modules_to_save and the lora_ options"
            )
    try:
        return get_peft_config({**values, **options.peft_fields})
    except (TypeError, ValueError) as error:
        raise UserError(
            f"peft_fields={options.peft_fields} is not allowed with peft_type="
            f"{options.peft_type!r}: {first_line(error)}"
        ) from error


def lora_fields(options: AdapterOptions) -> dict[str, Any]:
    """Rank and scale, also of a tower with a rank of its own, by PEFT's names."""

    def scale(rank: int) -> float:
        return 2 * rank if options.lora_alpha is None else options.lora_alpha

    ranks = {"vision": options.lora_vision_rank, "text": options.lora_text_rank}
    own = {f"{TOWERS[name]}.*": rank for name, rank in ranks.items() if rank}
    values: dict[str, Any] = {
        "r": options.lora_rank,
        "lora_alpha": scale(options.lora_rank),
        "lora_dropout": options.lora_dropout,
        "rank_pattern": own,
        "alpha_pattern": {pattern: scale(rank) for pattern, rank in own.items()},
    }
    without = "|".join(TOWERS[name] for name, rank in ranks.items() if rank == 0)
    if without:
        values["exclude_modules"] = rf"({without})(\..*)?"
    return values


def check_targets(model: PreTrainedModel, targets: str | list[str]):
    """Reject targets that match no module.

    Raises:
        UserError: with what could be meant.
    """
    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules() if name]
    try:
        if isinstance(targets, str):
            unmatched = [] if any(re.fullmatch(targets, name) for name in names) else [targets]
        else:
            unmatched = [
                target for target in targets if not any(ends_with(n, target) for n in names)
            ] or ([] if targets else ["[]"])
    except re.error as error:
        raise UserError(
            f"adapter_targets={targets!r} is not allowed: it is no regular expression ({error})"
        ) from error
    if unmatched:
        linear = {
            name.rpartition(".")[2]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear)
        }
        raise UserError(
            f"adapter_targets={targets!r} is not allowed: {', '.join(unmatched)} matches no layer "
            f"of the model; its linear layers end in {', '.join(sorted(linear))}"
        )


def ends_with(name: str, last: str) -> bool:
    """Whether the last parts of a module's name are these."""
    return name == last or name.endswith(f".{last}")


def check_saved_modules(model: PreTrainedModel, wanted: list[str]):
    """Reject names of modules to train in full that the model has not.

    Raises:
        UserError: with the names.
    """
    from peft.utils.other import ModulesToSaveWrapper

    found = [n for n, module in model.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    missing = [name for name in wanted if not any(ends_with(one, name) for one in found)]
    if missing:
        raise UserError(
            f"modules_to_save={wanted} is not allowed: the model has no module "
            f"{', '.join(missing)}; it has {', '.join(name for name, _ in model.named_children())}"
        )


def load_config(path: str) -> Any:
    """The configuration of a saved adapter, made to be trained.

    Raises:
        UserError: there is none, or it is of a kind that cannot be trained here.
    """
    from peft import PeftConfig

    folder = find_checkpoint(path)
    try:
        config = PeftConfig.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"adapter_name_or_path={path!r} is not allowed: {first_line(error)}"
        ) from error
    kind = getattr(config.peft_type, "value", config.peft_type)
    if kind not in PEFT_TYPES:
        raise UserError(
            f"adapter_name_or_path={path!r} is not allowed: its peft_type is {kind}, and it must "
            f"be one of {', '.join(PEFT_TYPES)}"
        )
    config.inference_mode = False
    return config


def load_weights(peft: Any, path: str, base: str):
    """Give an adapter its saved weights.

    Raises:
        UserError: they are of an adapter for another model.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from peft.utils.save_and_load import load_peft_weights

    folder = find_checkpoint(path)
    if Path(folder).is_dir() and not (Path(folder) / "adapter_model.safetensors").is_file():
        raise UserError(
            f"adapter_name_or_path={path!r} is not allowed: it has no adapter_model.safetensors"
        )
    saved = load_peft_weights(folder, device="cpu")
    expected = get_peft_model_state_dict(peft, save_embedding_layers=False)
    shapes = [
        {name: tuple(value.shape) for name, value in one.items()} for one in (saved, expected)
    ]
    misfits = [name for name in {*saved, *expected} if shapes[0].get(name) != shapes[1].get(name)]
    if misfits:
        raise UserError(
            f"adapter_name_or_path={path!r} is not allowed: it is an adapter for another model "
            f"than {base!r}, which differs in {abbreviate_names(misfits)}"
        )
    set_peft_model_state_dict(peft, saved)


@contextmanager
def fitting(what: str, base: str) -> Iterator[None]:
    """Turn what PEFT says of an adapter that does not fit a model into one sentence.

    Raises:
        UserError: that sentence.
    """
    try:
        yield
    except UserError:
        raise
    except (ValueError, TypeError, RuntimeError) as error:
        raise UserError(f"{what} does not fit the model {base!r}: {first_line(error)}") from error


@contextmanager
def unchanged_weights(model: nn.Module, what: str) -> Iterator[None]:
    """Reject an adapter that begins by changing the weights beneath it.

    Such as by PiSSA (Meng et al., 2024), whose saved adapter does not fit the published model.

    Raises:
        UserError: it does.
    """
    before = {weight: (weight.data_ptr(), weight._version) for weight in model.parameters()}
    yield
    if any((weight.data_ptr(), weight._version) != mark for weight, mark in before.items()):
        raise UserError(
            f"{what} is not allowed: it begins by changing the weights beneath it, so that its "
            "saved adapter would not fit them; use another init_lora_weights"
        )
