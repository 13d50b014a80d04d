"""What to evaluate on, and how: the options of the command, and an entry of a recipe's list."""

from dataclasses import dataclass, field, fields
from typing import Any

from ..utils.errors import UserError


@dataclass(repr=False)
class EvaluationOptions:
    """What to evaluate on, and how.

    Args:
        dataset: a folder, a file or a glob pattern as for training, or a dataset id on the Hub. In
            a recipe, the training dataset by default.
        split: split to evaluate on; by default validation, or test if there is none.
        filter: column values that rows of the split must have, such as `{artist: fluent}`; class
            labels by name.
        gallery_splits: other splits whose images join the gallery that texts search, as
            distractors.
        train_split: split that the linear probe, the nearest neighbours and the few-shot methods
            learn from; by default train.
        image_column: column with the images; guessed from type and name by default.
        caption_columns: columns with a caption or a list of captions per row; guessed from their
            names by default.
        label_columns: columns with the classes, each evaluated separately; guessed by default.
        concept_column: rows with the same value are correct matches for each other; by default
            each row only matches itself.
        templates: prompt templates for the class names, averaged into one ensemble: plain, en, zh,
            open_clip_imagenet, or a text file with one template per line.
        tasks: retrieval, zero_shot, calibration, linear_probe, knn, few_shot, robustness,
            classification (of a model with a class head); by default all that the columns allow,
            except few_shot and robustness, which take long. In a recipe, retrieval or
            classification by default.
        shots: for few_shot, numbers of training images per class; by default those of 1, 2, 4, 8
            and 16 that every class has.
        batch_size: batch size in each process.
        num_workers: worker processes that decode images, per process.
        max_samples: evaluate on at most this many randomly drawn rows.
        max_bad_sample_ratio: stop if more than this share of the images cannot be decoded.
        seed: random seed.
        name: in a recipe, what the metrics of this evaluation are called; the split by default.
        only_at_end: in a recipe, whether to evaluate after the last update only.
    """

    dataset: str = ""
    split: str | None = None
    filter: dict[str, str] = field(default_factory=dict)
    gallery_splits: list[str] = field(default_factory=list)
    train_split: str | None = None
    image_column: str | None = None
    caption_columns: list[str] | None = None
    label_columns: list[str] | None = None
    concept_column: str | None = None
    templates: list[str] = field(default_factory=lambda: ["en"])
    tasks: list[str] | None = None
    shots: list[int] | None = None
    batch_size: int = 64
    num_workers: int = 2
    max_samples: int | None = None
    max_bad_sample_ratio: float = 0.01
    seed: int = 0
    name: str = ""
    only_at_end: bool = False

    def __post_init__(self):
        for name, least in {"batch_size": 1, "num_workers": 0, "max_samples": 2}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name}={value} is not allowed: it must be at least {least}")
        if self.shots is not None and (not self.shots or min(self.shots) < 1):
            raise UserError(f"shots={self.shots} is not allowed: each must be at least 1")

    def changed_fields(self) -> dict[str, Any]:
        """The fields that are not at their default: what a recipe has to say."""
        default = EvaluationOptions()
        return {
            option.name: value
            for option in fields(self)
            if (value := getattr(self, option.name)) != getattr(default, option.name)
        }

    def __repr__(self) -> str:
        return str(self.changed_fields())
