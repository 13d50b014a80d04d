"""The model card: written from what a run did and measured."""

import json
import platform
from dataclasses import dataclass, field
from datetime import date
from os import cpu_count
from pathlib import Path

from huggingface_hub import DatasetCard, EvalResult, ModelCard, ModelCardData

from ..evaluation.metrics import Metric
from ..evaluation.tasks import TASKS
from ..utils.markdown import escape_cell
from ..utils.resources import find_data
from ..utils.versions import code_version, package_versions
from .base_model import BaseModel, base_metadata, describe_bases, describe_licence

PACKAGES = ("torch", "transformers", "timm", "datasets", "accelerate", "tokenizers")


@dataclass
class CardFacts:
    """What the card is written from.

    Args:
        name: of the model.
        dataset: folder or id of the dataset.
        num_rows, num_concepts: how many images and concepts were trained on.
        skipped: names of images that could not be decoded.
        recipe: every field of the run.
        metrics: what was measured of it.
        steps: updates done.
        seconds: time spent training.
        precision: `bf16`, `fp16` or `no`.
        images_per_second: over the whole of training.
        num_vision_parameters, num_text_parameters: of the towers with their projections.
        example_text: a caption to show how the model is used.
        image_size: side in pixels.
        classes: names of the classes of a classifier, which has no texts; empty for a CLIP.
        bases: published models that training started from.
        between: metrics of models between the one that the run started from, at 0, and the trained
            one, at 1.
    """

    name: str
    dataset: str
    num_rows: int
    num_concepts: int
    skipped: list[str]
    recipe: dict
    metrics: list[Metric]
    steps: int
    seconds: float
    precision: str
    images_per_second: float
    num_vision_parameters: int
    num_text_parameters: int
    example_text: str
    image_size: int
    classes: list[str] = field(default_factory=list)
    bases: list[BaseModel] = field(default_factory=list)
    between: dict[float, list[Metric]] = field(default_factory=dict)


def build_model_card(facts: CardFacts) -> ModelCard:
    """The card of a model as the Hub shows it: metadata, and what a user must know."""
    dataset = read_dataset_card(facts.dataset)
    data = ModelCardData(
        language=dataset.get("language") or ["en"],
        library_name="transformers",
        pipeline_tag="zero-shot-image-classification",
        tags=["clip", "vit", "image-text-retrieval", "clip_vit"],
        model_name=facts.name,
        eval_results=evaluation_results(facts),
        **base_metadata(facts.bases),
    )
    sections = [
        f"---\n{data.to_yaml()}\n---",
        f"# {facts.name}",
        describe_model(facts),
        "## How to use it",
        describe_use(facts),
        "## What it was measured to do",
        describe_metrics(facts),
        *describe_between(facts),
        "## What it was trained on",
        describe_data(facts, dataset),
        "## How it was trained",
        describe_recipe(facts),
        "## Licence",
        f"{describe_licence(facts.bases)} The pictures trained on are under the licences named "
        "above, which ask for attribution.",
    ]
    return ModelCard("\n\n".join(sections) + "\n")


def read_dataset_card(path: str) -> dict:
    """The metadata of a dataset's card, empty where it has none on this machine."""
    card = Path(find_data(path)).expanduser() / "README.md"
    return DatasetCard.load(card).data.to_dict() if card.is_file() else {}


def processor_name() -> str:
    """What the processor calls itself, and how many cores it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line[:10] == "model name")
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {cpu_count()} cores"


def evaluation_results(facts: CardFacts) -> list[EvalResult]:
    """R@1 and R@10 as the Hub's metadata has them."""
    return [
        EvalResult(
            task_type="zero-shot-retrieval",
            dataset_type=metric.dataset,
            dataset_name=metric.dataset,
            # The Hub groups results that differ only in the metric.
            dataset_split=metric.split,
            metric_type=metric.name,
            metric_name=name_metric(metric),
            metric_value=round(metric.value, 4),
        )
        for metric in facts.metrics
        if metric.name in ("R@1", "R@10")
    ]


def name_metric(metric: Metric) -> str:
    """A metric of retrieval in words."""
    parts = [metric.name, metric.column, metric.direction.replace("_", " ")]
    if metric.evaluation != metric.split:
        parts.append(metric.evaluation)
    return ", ".join(parts)


def describe_model(facts: CardFacts) -> str:
    """What the model is."""
    vision, text = facts.num_vision_parameters / 1e6, facts.num_text_parameters / 1e6
    return (
        f"A CLIP: a Vision Transformer over images of {facts.image_size} × {facts.image_size} "
        f"pixels ({vision:.1f} million parameters) and a text Transformer ({text:.1f} million) "
        "whose embeddings meet in one space. It finds pictures by text and names pictures. "
        f"{describe_bases(facts.bases)}"
    ).rstrip()


#: What a card says where there are no metrics.
NOTHING_EVALUATED = "Nothing was measured: the recipe has no `evaluations`."
#: What code that loads the model needs.
REQUIREMENTS = """Besides `transformers` it needs `torch`, `torchvision`, `timm` and `einops`. The
model's code is part of this repository, hence `trust_remote_code=True`."""
#: How that code opens an image as training did.
OPEN_PICTURE = """image = Image.open("picture.png").convert("RGBA")  # transparent becomes white
image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")"""


def describe_use(facts: CardFacts) -> str:
    """Five lines that load the model with plain Transformers."""
    return f"""{REQUIREMENTS}

```python
from PIL import Image
from transformers import AutoModel, AutoProcessor

path = {json.dumps(facts.recipe["output_dir"])}  # this folder, or its name on the Hub
model = AutoModel.from_pretrained(path, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(path, trust_remote_code=True)
{OPEN_PICTURE}
inputs = processor(
    text={json.dumps([facts.example_text, "something else"], ensure_ascii=False)},
    images=image,
    return_tensors="pt",
    padding=True,
)
print(model(**inputs).logits_per_image.softmax(dim=1))
```"""


def describe_metrics(facts: CardFacts) -> str:
    """Tables of retrieval and zero-shot figures."""
    if not facts.metrics:
        return NOTHING_EVALUATED
    parts = [describe_splits(facts)]
    recalls: dict[tuple[str, str, str], dict[str, float]] = {}
    for metric in facts.metrics:
        if metric.task == "retrieval":
            row = (metric.evaluation, metric.column, metric.direction)
            recalls.setdefault(row, {})[metric.name] = metric.value
    lines = ["| evaluation | queries | direction | R@1 | R@5 | R@10 | median rank |"]
    lines.append("| --- " * 7 + "|")
    for (evaluation, column, direction), values in recalls.items():
        cells = [f"{100 * values[key]:.1f}" for key in ("R@1", "R@5", "R@10")]
        lines.append(
            f"| {escape_cell(evaluation)} | {escape_cell(column)} | {direction.replace('_', ' ')} "
            f"| {' | '.join(cells)} | {values['median_rank']:.0f} |"
        )
    if recalls:
        parts.append("Recall in percent:")
        parts.append("\n".join(lines))
    parts += describe_other_tasks([m for m in facts.metrics if m.task != "retrieval"])
    return "\n\n".join(parts)


def describe_splits(facts: CardFacts) -> str:
    """What each evaluation was made on."""
    lines = []
    by_name = {metric.evaluation: metric for metric in facts.metrics}
    options = {
        entry.get("name") or entry.get("split"): entry for entry in facts.recipe["evaluations"]
    }
    for name, metric in by_name.items():
        entry = options.get(name, {})
        text = f"- `{name}`: "
        text += "" if name == metric.split else f"split `{metric.split}` "
        text += "" if metric.dataset == facts.dataset else f"of `{metric.dataset}` "
        if entry.get("filter"):
            wanted = (f"`{column}` is {value}" for column, value in entry["filter"].items())
            text += f"where {', '.join(wanted)} "
        is_train = metric.dataset == facts.dataset and metric.split == facts.recipe["train_split"]
        text = text.rstrip(" :") + (" (training saw it)" if is_train else " (not seen in training)")
        if entry.get("gallery_splits"):
            others = " and ".join(f"`{split}`" for split in entry["gallery_splits"])
            text += f"; texts search among its images and those of {others}"
        lines.append(f"{text}.")
    return "\n".join(lines)


def describe_other_tasks(metrics: list[Metric]) -> list[str]:
    """A sentence for each zero-shot accuracy, and a table of what else was measured."""
    tables: dict[tuple[str, str, str], dict[str, float]] = {}
    for metric in metrics:
        if not metric.condition:
            row = (metric.task, metric.evaluation, metric.column)
            tables.setdefault(row, {})[metric.name] = metric.value
    parts = [
        f"Zero-shot accuracy on the names of `{of}`, {evaluation}: "
        f"{100 * values['accuracy']:.1f} % (always predicting the most common class: "
        f"{100 * values['majority']:.1f} %)."
        for (task, evaluation, of), values in tables.items()
        if task == "zero_shot"
    ]
    others = [
        f"| {task.replace('_', ' ')} | {escape_cell(evaluation)} | {escape_cell(of)} "
        f"| {name.replace('_', ' ')} | {value:.3g} |"
        for (task, evaluation, of), values in tables.items()
        if task != "zero_shot"
        for name, value in values.items()
    ]
    if others:
        header = ["| task | evaluation | column | metric | value |", "| --- " * 5 + "|"]
        parts.append("\n".join([*header, *others]))
    return parts


def describe_between(facts: CardFacts) -> list[str]:
    """A table of the headline metrics between the start of the run and its end."""
    if not facts.between:
        return []
    names = {
        metric.key: None
        for metrics in facts.between.values()
        for metric in metrics
        if metric.name in TASKS[metric.task].headlines[:1]
    }
    lines = [f"| share of the end | {' | '.join(map(escape_cell, names))} |"]
    lines.append("| --- " * (len(names) + 1) + "|")
    for alpha, metrics in sorted(facts.between.items()):
        values = {metric.key: f"{100 * metric.value:.1f}" for metric in metrics}
        lines.append(f"| {alpha:g} | {' | '.join(values.get(name, '') for name in names)} |")
    return [
        "## Between its start and its end",
        f"Models whose weights lie between those that the run started from "
        f"(`{facts.recipe['model_name_or_path']}`), at 0, and those at its end, at 1 (WiSE-FT), in "
        f"percent. The weights in this folder are at {facts.recipe['wise_ft_alpha']:g}.",
        "\n".join(lines),
        "![Metrics between the start and the end](wise_ft.png)",
    ]


def describe_data(facts: CardFacts, dataset: dict) -> str:
    """Which data, how much of it, under which licences."""
    texts = [f"`{column}`" for column in facts.recipe["caption_columns"]]
    captions = f"captions from {', '.join(texts)}" if texts else ""
    if facts.recipe.get("label_column"):
        sets = ", ".join(f"`{name}`" for name in facts.recipe["label_templates"])
        names = f"phrases ({sets}) around the classes of `{facts.recipe['label_column']}`"
        captions = f"{captions} and {names}" if captions else names
    what = f"{facts.num_rows} images of {facts.num_concepts} concepts, with {captions}"
    sources = facts.recipe.get("stream_sources")
    if sources:
        listed = ", ".join(f"`{source}`" for source in sources)
        return add_licences(f"A stream of {listed}, with {captions}.", facts, dataset)
    return describe_origin(facts, dataset, what)


def describe_origin(facts: CardFacts, dataset: dict, what: str) -> str:
    """The dataset, what of it was trained on, and its licences."""
    name = dataset.get("pretty_name", facts.dataset)
    text = f"{name} (`{facts.dataset}`, split `{facts.recipe['train_split']}`): {what}."
    return add_licences(text, facts, dataset)


def add_licences(text: str, facts: CardFacts, dataset: dict) -> str:
    """The same, with the licences, and with what could not be read."""
    licences = dataset.get("license") or []
    licences = [licences] if isinstance(licences, str) else licences
    if licences:
        text += f" Licences: {', '.join(licences)}; the dataset's card gives the attributions."
    if facts.skipped:
        text += f"\n\nImages that could not be decoded: {'; '.join(facts.skipped)}."
    return text


def describe_recipe(facts: CardFacts) -> str:
    """Time, place, versions and every field."""
    numbers = package_versions(*PACKAGES)
    versions = ", ".join(f"{package} {number}" for package, number in numbers.items())
    fields = "\n".join(
        f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in facts.recipe.items()
    )
    return (
        f"{facts.steps} updates in {facts.seconds:.0f} seconds "
        f"({facts.images_per_second:.0f} images/s) on {processor_name()}, "
        f"precision {facts.precision}, {date.today().isoformat()}, {code_version()}; {versions}. "
        f"The recipe:\n\n```yaml\n{fields}\n```"
    )
