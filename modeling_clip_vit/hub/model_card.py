"""Model cards: the facts of a run in templates, which a user can replace.

The package's templates are `templates/model_card.md` and, in Chinese, `model_card.zh-CN.md`. They
are Jinja; docs/sharing.md lists what they can use.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from ..evaluation.tasks import is_headline
from ..utils.errors import UserError, one_line
from .card_facts import CardFacts
from .card_metadata import ACCURACIES, build_metadata, read_dataset_card, write_recipe
from .templates import render, render_packaged

#: The package's templates, in English and in Chinese, and what their cards are called.
CARD_TEMPLATES = ("model_card.md", "model_card.zh-CN.md")
CARD_FILES = ("README.md", "README.zh-CN.md")
#: A card lists no more classes than this by name.
MOST_NAMES = 100


def build_model_cards(
    facts: CardFacts, template: Path | None = None, names: tuple[str, str] = CARD_FILES
) -> dict[str, str]:
    """The cards of a model by the names of their files.

    Args:
        facts: of the run.
        template: a Jinja template for the first card, and then the only one; by default the
            package's own, in English and in Chinese.
        names: of the files.

    Raises:
        UserError: the template is not valid, uses a name that does not exist, or makes no card.
    """
    context = {**describe(facts), "english_card": names[0], "chinese_card": names[1]}
    if template is not None:
        text = render(template.read_text(encoding="utf-8"), context, str(template))
        check_card(text, str(template))
        return {names[0]: text}
    return {
        name: render_packaged(file, context)
        for name, file in zip(names, CARD_TEMPLATES, strict=True)
    }


def check_card(text: str, template: str):
    """Reject a card whose metadata huggingface_hub cannot read.

    Raises:
        UserError: with the reason.
    """
    try:
        ModelCard(text)
    except Exception as error:  # YAML's, and those of each field
        raise UserError(f"{template!r} makes no valid card: {one_line(error)}") from error


def describe(facts: CardFacts) -> dict[str, Any]:
    """What the templates can use: plain values."""
    dataset = read_dataset_card(facts.dataset)
    licences = dataset.get("license") or []
    return {
        **facts.to_json(),
        "metadata": build_metadata(facts).to_yaml(),
        "model_path": facts.recipe.get("hub_model_id") or facts.recipe["output_dir"],
        "recipe_yaml": write_recipe(facts),
        "dataset_name": dataset.get("pretty_name", facts.dataset),
        "dataset_licences": [licences] if isinstance(licences, str) else licences,
        "num_other_classes": max(0, len(facts.classes) - MOST_NAMES),
        "named_classes": facts.classes[:MOST_NAMES],
        "evaluations": describe_evaluations(facts),
        "retrieval": describe_retrieval(facts),
        "zero_shot": describe_zero_shot(facts),
        "classification": describe_classification(facts),
        "other_metrics": describe_others(facts),
        "between": describe_between(facts),
    }


def describe_evaluations(facts: CardFacts) -> list[dict[str, Any]]:
    """What each evaluation was made on."""
    options = {
        entry.get("name") or entry.get("split"): entry for entry in facts.recipe["evaluations"]
    }
    described = []
    for name, metric in {metric.evaluation: metric for metric in facts.metrics}.items():
        entry = options.get(name, {})
        is_own = metric.dataset == facts.dataset
        described.append(
            {
                "name": name,
                "split": metric.split,
                "dataset": metric.dataset,
                "is_own_dataset": is_own,
                "filter": entry.get("filter") or {},
                "gallery_splits": entry.get("gallery_splits") or [],
                "is_train": is_own and metric.split == facts.recipe["train_split"],
            }
        )
    return described


def describe_retrieval(facts: CardFacts) -> list[dict[str, Any]]:
    """The rows of the table of recalls, shares of 1, and median ranks."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for metric in facts.metrics:
        if metric.task == "retrieval":
            key = (metric.evaluation, metric.column, metric.direction)
            names = dict(zip(("evaluation", "column", "direction"), key, strict=True))
            rows.setdefault(key, names)[metric.name] = metric.value
    return list(rows.values())


def describe_zero_shot(facts: CardFacts) -> list[dict[str, Any]]:
    """Accuracies on the names of classes, next to those of the most common class."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for metric in facts.metrics:
        if metric.task == "zero_shot" and not metric.condition:
            key = (metric.evaluation, metric.column)
            names = {"evaluation": metric.evaluation, "column": metric.column}
            rows.setdefault(key, names)[metric.name] = metric.value
    return list(rows.values())


def describe_classification(facts: CardFacts) -> list[dict[str, Any]]:
    """Accuracies of a class head, next to those of the most common class."""
    rows: dict[str, dict[str, Any]] = {}
    for metric in facts.metrics:
        if metric.task == "classification":
            row = rows.setdefault(
                metric.evaluation, {"evaluation": metric.evaluation, "accuracies": {}}
            )
            if metric.name in ACCURACIES:
                row["accuracies"][ACCURACIES[metric.name]] = metric.value
            else:
                row[metric.name] = metric.value
    return list(rows.values())


def describe_others(facts: CardFacts) -> list[dict[str, Any]]:
    """What else was measured."""
    shown = ("retrieval", "zero_shot", "classification")
    return [
        {
            "task": metric.task,
            "evaluation": metric.evaluation,
            "column": metric.column,
            "name": metric.name,
            "value": f"{metric.value:.3g}",
        }
        for metric in facts.metrics
        if metric.task not in shown and not metric.condition
    ]


def describe_between(facts: CardFacts) -> dict[str, Any]:
    """The headline metrics between the start of the run and its end; empty without any."""
    points = sorted(facts.between.items())
    names = {metric.key: None for _, metrics in points for metric in metrics if is_headline(metric)}
    rows = []
    for alpha, metrics in points:
        values = {metric.key: metric.value for metric in metrics}
        rows.append({"alpha": f"{alpha:g}", "values": [values.get(name) for name in names]})
    return {"names": list(names), "rows": rows} if rows else {}
