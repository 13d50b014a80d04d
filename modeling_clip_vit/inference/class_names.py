"""Class names as texts, and their embeddings.

Shape legend: `C` classes, `T` texts, `P` projection.
"""

from collections.abc import Sequence

import torch
from torch.nn import functional as F  # noqa: N812

from ..data.templates import clean_class_names, load_templates


def class_texts(names: Sequence[str], template_sets: Sequence[str]) -> list[str]:
    """Every class name in every template: those of the first class first.

    Args:
        names: names of the classes, as a dataset has them.
        template_sets: sets of templates as `load_templates` knows them; all of their templates
            together are one ensemble.

    Raises:
        DataError: there is no such set.
    """
    templates = list(dict.fromkeys(t for name in template_sets for t in load_templates(name)))
    return [t.replace("{}", name) for name in clean_class_names(names) for t in templates]


def average_templates(text_embeds: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Embeddings of classes: the mean over their templates, normalised again, (C, P).

    As Radford et al. (2021, section 3.1.4) ensemble prompts.

    Args:
        text_embeds: embeddings of `class_texts`, with unit norm, (T, P): the same number of each
            class.
        num_classes: C.
    """
    if len(text_embeds) == num_classes:
        return text_embeds
    return F.normalize(text_embeds.unflatten(0, (num_classes, -1)).mean(dim=1), dim=-1)
