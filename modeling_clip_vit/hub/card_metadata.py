"""What the Hub reads of a model card: licence, languages, origin and metrics, as its fields."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCard, EvalResult, ModelCardData, constants

from ..evaluation.metrics import Metric
from ..utils.hub_ids import is_hub_id
from ..utils.resources import find_data
from .base_model import base_metadata
from .card_facts import CardFacts

#: Names of the accuracies of a class head.
ACCURACIES = {"top1_accuracy": "Top-1 accuracy", "top5_accuracy": "Top-5 accuracy"}
#: The picture of a widget.
EXAMPLE_PICTURE = "example.png"


def build_metadata(facts: CardFacts) -> ModelCardData:
    """The metadata of a card."""
    is_classifier = bool(facts.classes)
    task = "image-classification" if is_classifier else "zero-shot-image-classification"
    tags = ["vit", task] if is_classifier else ["clip", "vit", "image-text-retrieval"]
    fields: dict[str, Any] = {
        "language": read_dataset_card(facts.dataset).get("language"),
        "datasets": hub_datasets(facts) or None,
        "widget": widget(facts) or None,
        "co2_eq_emissions": describe_emissions(facts) if facts.environment.energy else None,
        **base_metadata(facts.bases),
    }
    return ModelCardData(
        library_name="transformers",
        pipeline_tag=task,
        tags=[*tags, "clip_vit"],
        model_name=facts.name,
        eval_results=accuracies(facts) if is_classifier else recalls(facts),
        **{name: value for name, value in fields.items() if value is not None},
    )


def read_dataset_card(path: str) -> dict:
    """The metadata of a dataset's card, empty where it has none on this machine."""
    card = Path(find_data(path)).expanduser() / "README.md" if path else None
    return DatasetCard.load(card).data.to_dict() if card and card.is_file() else {}


def hub_datasets(facts: CardFacts) -> list[str]:
    """The ids on the Hub of what was trained on; a folder of this machine has none."""
    paths = [facts.dataset, *(facts.recipe.get("stream_sources") or [])]
    return [
        path
        for path in dict.fromkeys(paths)
        if is_hub_id(path) and not Path(find_data(path)).exists()
    ]


def widget(facts: CardFacts) -> list[dict[str, str]]:
    """An example to try on the page of the model; none without a picture on the Hub."""
    repository = facts.recipe.get("hub_model_id")
    if not repository or EXAMPLE_PICTURE not in facts.pictures:
        return []
    source = f"{constants.ENDPOINT}/{repository}/resolve/main/{EXAMPLE_PICTURE}"
    example = {"src": source, "example_title": facts.example_texts[0]}
    if not facts.classes:
        # The Hub separates labels by commas.
        labels = [text.replace(",", " ") for text in facts.example_texts[:4]]
        example["candidate_labels"] = ", ".join(labels)
    return [example]


def describe_emissions(facts: CardFacts) -> dict[str, Any]:
    """What training emitted, as the Hub has it: grams of CO2."""
    energy = facts.environment.energy
    return {
        "emissions": energy["emissions_g"],
        "source": "CodeCarbon",
        "training_type": "fine-tuning" if facts.bases else "pre-training",
        "geographical_location": energy["country"],
        "hardware_used": facts.environment.processor,
    }


def recalls(facts: CardFacts) -> list[EvalResult]:
    """R@1 and R@10 as the Hub's metadata has them."""
    return [
        EvalResult(
            task_type="zero-shot-retrieval",
            metric_type=metric.name,
            metric_name=name_recall(metric),
            **describe_result(metric),
        )
        for metric in facts.metrics
        if metric.name in ("R@1", "R@10")
    ]


def accuracies(facts: CardFacts) -> list[EvalResult]:
    """Accuracies of a class head as the Hub's metadata has them."""
    return [
        EvalResult(
            task_type="image-classification",
            metric_type="accuracy",
            metric_name=ACCURACIES[metric.name],
            **describe_result(metric),
        )
        for metric in facts.metrics
        if metric.name in ACCURACIES
    ]


def describe_result(metric: Metric) -> dict[str, Any]:
    """The fields of a result that all metrics have; the Hub groups those that are equal."""
    return {
        "dataset_type": metric.dataset,
        "dataset_name": metric.dataset,
        "dataset_split": metric.split,
        "metric_value": round(metric.value, 4),
    }


def name_recall(metric: Metric) -> str:
    """A metric of retrieval in words."""
    parts = [metric.name, metric.column, metric.direction.replace("_", " ")]
    if metric.evaluation != metric.split:
        parts.append(metric.evaluation)
    return ", ".join(parts)


def write_recipe(facts: CardFacts) -> str:
    """Every option of the run as a recipe has it: YAML, one option a line."""
    return "\n".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.recipe.items()
    )
