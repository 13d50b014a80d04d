"""The model card of a classifier: written from what a run did and measured."""

import json

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from ..utils.markdown import escape_cell
from .base_model import base_metadata, describe_bases, describe_licence
from .model_card import (
    NOTHING_EVALUATED,
    OPEN_PICTURE,
    REQUIREMENTS,
    CardFacts,
    describe_between,
    describe_origin,
    describe_recipe,
    describe_splits,
    read_dataset_card,
)

#: A card lists no more classes than this by name.
MOST_NAMES = 100
METRICS = {"top1_accuracy": "Top-1 accuracy", "top5_accuracy": "Top-5 accuracy"}


def build_classifier_card(facts: CardFacts) -> ModelCard:
    """The card of a model with a class head as the Hub shows it."""
    dataset = read_dataset_card(facts.dataset)
    data = ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        tags=["vit", "image-classification", "clip_vit"],
        model_name=facts.name,
        eval_results=evaluation_results(facts),
        **base_metadata(facts.bases),
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {facts.name}",
        f"A Vision Transformer over images of {facts.image_size} × {facts.image_size} pixels "
        f"({facts.num_vision_parameters / 1e6:.1f} million parameters) that tells "
        f"{len(facts.classes)} classes apart: {list_classes(facts.classes)}. "
        f"{describe_bases(facts.bases)}".rstrip(),
        "## How to use it",
        describe_use(facts),
        "## What it was measured to do",
        describe_metrics(facts),
        *describe_between(facts),
        "## What it was trained on",
        describe_origin(facts, dataset, f"{facts.num_rows} images of {len(facts.classes)} classes"),
        "## How it was trained",
        describe_recipe(facts),
        "## Licence",
        f"{describe_licence(facts.bases)} The pictures trained on are under the licences of their "
        "dataset.",
    ]
    return ModelCard("\n\n".join(sections) + "\n")


def list_classes(names: list[str]) -> str:
    """The classes, at most `MOST_NAMES` of them by name."""
    num_others = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {num_others} more" if num_others > 0 else "")


def describe_use(facts: CardFacts) -> str:
    """A few lines that load the model with plain Transformers."""
    return f"""{REQUIREMENTS}

```python
from PIL import Image
from transformers import pipeline

path = {json.dumps(facts.recipe["output_dir"])}  # this folder, or its name on the Hub
{OPEN_PICTURE}
classify = pipeline("image-classification", model=path, trust_remote_code=True)
print(classify(image))
```"""


def evaluation_results(facts: CardFacts) -> list[EvalResult]:
    """Accuracies as the Hub's metadata has them."""
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=metric.dataset,
            dataset_name=metric.dataset,
            dataset_split=metric.split,
            metric_type="accuracy",
            metric_name=METRICS[metric.name],
            metric_value=round(metric.value, 4),
        )
        for metric in facts.metrics
        if metric.name in METRICS
    ]


def describe_metrics(facts: CardFacts) -> str:
    """Accuracy on each evaluated split."""
    values: dict[str, dict[str, float]] = {}
    for metric in facts.metrics:
        if metric.task == "classification":
            values.setdefault(metric.evaluation, {})[metric.name] = metric.value
    if not values:
        return NOTHING_EVALUATED
    lines = [
        f"| {METRICS[name]} | {escape_cell(evaluation)} | {100 * figures[name]:.1f} % |"
        for evaluation, figures in values.items()
        for name in METRICS
        if name in figures
    ]
    majorities = [
        f"always predicting the most common class would reach {100 * figures['majority']:.1f} % on "
        f"{evaluation}"
        for evaluation, figures in values.items()
    ]
    return (
        f"{describe_splits(facts)}\n\nFor comparison, {'; '.join(majorities)}.\n\n"
        "| metric | evaluation | value |\n| --- | --- | --- |\n" + "\n".join(lines)
    )
