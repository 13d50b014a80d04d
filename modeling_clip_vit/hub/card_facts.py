"""What a model card is written from: what a run did, measured, and ran on."""

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import date
from os import cpu_count
from pathlib import Path
from typing import Any

from ..evaluation.metrics import Metric, finite
from ..utils.versions import code_version, package_versions
from .base_model import BaseModel

PACKAGES = ("torch", "transformers", "timm", "datasets", "accelerate", "tokenizers")


@dataclass(frozen=True)
class Environment:
    """Where and when a run was made.

    Args:
        processor: its name, and how many cores it has.
        date: of the end of the run, as YYYY-MM-DD.
        code: commit or version of this package.
        versions: of the packages that matter.
        energy: what codecarbon measured: `energy_kwh`, `emissions_g` (of CO2) and `country`; empty
            if nothing was measured.
    """

    processor: str
    date: str
    code: str
    versions: dict[str, str]
    energy: dict[str, Any] = field(default_factory=dict)


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
        example_texts: captions to show how the model is used.
        image_size: side in pixels.
        environment: where it was trained.
        classes: names of the classes of a classifier, which has no texts; empty for a CLIP.
        bases: published models that training started from.
        between: metrics of models between the one that the run started from, at 0, and the trained
            one, at 1.
        pictures: names of the figures that are in the folder.
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
    example_texts: list[str]
    image_size: int
    environment: Environment
    classes: list[str] = field(default_factory=list)
    bases: list[BaseModel] = field(default_factory=list)
    between: dict[float, list[Metric]] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values, from which `from_json` makes the same facts; no number is NaN."""
        content = {option.name: getattr(self, option.name) for option in fields(self)}
        content["metrics"] = list(map(metric_to_json, self.metrics))
        content["environment"] = asdict(self.environment)
        content["bases"] = list(map(asdict, self.bases))
        content["between"] = [
            {"alpha": alpha, "metrics": list(map(metric_to_json, metrics))}
            for alpha, metrics in self.between.items()
        ]
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "CardFacts":
        """The facts that `to_json` wrote."""
        between = {
            point["alpha"]: list(map(metric_from_json, point["metrics"]))
            for point in content["between"]
        }
        changed = {
            "metrics": list(map(metric_from_json, content["metrics"])),
            "environment": Environment(**content["environment"]),
            "bases": [BaseModel(**base) for base in content["bases"]],
            "between": between,
        }
        return cls(**{**content, **changed})


def metric_to_json(metric: Metric) -> dict[str, Any]:
    """The fields of a metric that are not empty."""
    content = {name: value for name, value in asdict(metric).items() if value != ""}
    return {**content, **finite({"value": metric.value})}


def metric_from_json(content: Mapping[str, Any]) -> Metric:
    """The metric that `metric_to_json` wrote; its value is NaN where JSON has none."""
    value = content["value"]
    return Metric(**{**content, "value": float("nan") if value is None else value})


def describe_environment(energy: Mapping[str, Any] | None = None) -> Environment:
    """This machine, today.

    Args:
        energy: what was measured of the run, see `Environment`.
    """
    return Environment(
        processor=processor_name(),
        date=date.today().isoformat(),
        code=code_version(),
        versions=package_versions(*PACKAGES),
        energy=dict(energy or {}),
    )


def processor_name() -> str:
    """What the processor calls itself, and how many cores it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line[:10] == "model name")
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {cpu_count()} cores"
