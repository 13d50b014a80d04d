"""The models that a run started from, as its card names them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

#: Licence of this package's code, and of weights that it trained from the beginning.
OWN_LICENCE = "apache-2.0"


@dataclass(frozen=True)
class BaseModel:
    """A model that a run started from.

    Args:
        name: as the recipe has it.
        repository: its id on the Hub; empty for a folder.
        licence: of its card; None where that says nothing.
    """

    name: str
    repository: str = ""
    licence: str | None = None


def base_metadata(bases: Sequence[BaseModel]) -> dict[str, Any]:
    """What the Hub reads of a model's licence and origin: arguments of `ModelCardData`."""
    licences = {base.licence for base in bases} or {OWN_LICENCE}
    fields: dict[str, Any] = {"license": licences.pop() if len(licences) == 1 else "other"}
    repositories = [base.repository for base in bases if base.repository]
    if repositories:
        fields |= {"base_model": repositories, "base_model_relation": "finetune"}
    return fields
