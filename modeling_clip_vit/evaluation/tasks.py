"""Evaluate a CLIP on a split: every task on the same embeddings.

Shape legend: `N` images, `C` classes, `P` projection.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset, DatasetDict

from ..data.columns import read_keys
from ..data.errors import DataError
from ..data.images import BadSamples
from ..data.labels import Labels, read_labels
from ..data.sources import get_split, open_dataset
from ..inference.loading import Encoder
from ..utils.errors import UserError
from .calibration import Reliability, measure_calibration
from .columns import Columns, choose_columns
from .corruptions import CORRUPTIONS, SEVERITIES
from .metrics import Metric, make_metrics
from .probe import measure_linear_probe, measure_neighbours
from .retrieval import list_captions, measure_retrieval, rows_without_text
from .rows import Damage, Embedder
from .zero_shot import average_phrases, class_texts, measure_zero_shot

#: Task -> what it needs of the data.
NEEDS = {
    "retrieval": ("captions",),
    "zero_shot": ("labels",),
    "calibration": ("labels",),
    "linear_probe": ("labels", "train_split"),
    "knn": ("labels", "train_split"),
    "robustness": (),
}
#: What is missing, in words.
ABSENT = {
    "captions": "a column of captions: name it with caption_columns",
    "labels": "a column of class labels: name it with label_column",
    "train_split": "another split to learn from: name it with train_split",
}


@dataclass
class EvaluationOptions:
    """What to evaluate on, and how.

    Args:
        dataset: a folder, a file or a glob pattern as for training, or a dataset id on the Hub.
        split: split to evaluate on; by default validation, or test if there is none.
        train_split: split that the linear probe and the nearest neighbours learn from; by default
            train.
        image_column: column with the images; guessed from type and name by default.
        caption_columns: columns with a caption or a list of captions per row; guessed from their
            names by default.
        label_column: column with the classes; guessed by default.
        concept_column: rows with the same value are correct matches for each other; by default
            each row only matches itself.
        templates: prompt templates for the class names, averaged into one ensemble: plain, en, zh,
            open_clip_imagenet, or a text file with one template per line.
        tasks: retrieval, zero_shot, calibration, linear_probe, knn, robustness; by default all that
            the columns allow, except robustness, which embeds the images many times.
        batch_size: batch size in each process.
        num_workers: worker processes that decode images, per process.
        max_samples: evaluate on at most this many randomly drawn rows.
        max_bad_sample_ratio: stop if more than this share of the images cannot be decoded.
        seed: random seed.
    """

    dataset: str
    split: str | None = None
    train_split: str | None = None
    image_column: str | None = None
    caption_columns: list[str] | None = None
    label_column: str | None = None
    concept_column: str | None = None
    templates: list[str] = field(default_factory=lambda: ["en"])
    tasks: list[str] | None = None
    batch_size: int = 64
    num_workers: int = 2
    max_samples: int | None = None
    max_bad_sample_ratio: float = 0.01
    seed: int = 0

    def __post_init__(self):
        for name, least in {"batch_size": 1, "num_workers": 0, "max_samples": 2}.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise UserError(f"{name}={value} is not allowed: it must be at least {least}")
        for task in self.tasks or []:
            if task not in NEEDS:
                raise UserError(f"tasks={task!r} is not allowed: choose from {', '.join(NEEDS)}")


@dataclass
class Images:
    """A split, embedded.

    Args:
        embeds: (N, P), of length 1.
        rows: row of each image.
        labels: class of each image, (N,); none where no task needs them.
    """

    embeds: torch.Tensor
    rows: list[int]
    labels: torch.Tensor


@dataclass
class EvaluationReport:
    """What was measured, on what.

    Args:
        metrics: shares are from 0 to 1.
        diagrams: what a reliability diagram shows, by what it is of.
        split: which split.
        columns: which columns.
        num_images: images that could be decoded.
        bad: those that could not.
    """

    metrics: list[Metric]
    diagrams: dict[str, Reliability]
    split: str
    columns: Columns
    num_images: int
    bad: BadSamples


def evaluate(encoder: Encoder, options: EvaluationOptions) -> EvaluationReport | None:
    """Evaluate a CLIP on a dataset; in all processes together, with the report in the main one.

    Raises:
        DataError: the dataset lacks what a task needs, or has only one usable image.
    """
    return Evaluation(encoder, options)()


class Evaluation:
    """One evaluation: opens the data, embeds it once, and measures every task.

    Args:
        encoder: a CLIP, or an export of one.
        options: on what, and how.
    """

    def __init__(self, encoder: Encoder, options: EvaluationOptions):
        splits = open_dataset(options.dataset, options.image_column)
        self.options = options
        self.split_name = options.split or choose_split(splits)
        self.split = self.draw(get_split(splits, self.split_name, options.dataset))
        self.columns = choose_columns(
            self.split,
            options.image_column,
            options.caption_columns,
            options.label_column,
            options.concept_column,
            options.dataset,
        )
        self.train_split = choose_train_split(splits, self.split_name, options)
        self.tasks = self.choose_tasks()
        # Check everything that could be wrong with the rows before anything is embedded.
        self.class_names: list[str] = []
        self.class_names = self.read_labels(self.split).names
        self.texts = class_texts(self.class_names, options.templates)
        for column in self.caption_columns():
            self.read_captions(column, range(len(self.split)))
        self.bad = BadSamples(options.max_bad_sample_ratio)
        self.scale, self.bias = encoder.similarity
        self.embedder = Embedder(encoder, options.batch_size, options.num_workers)

    def draw(self, split: Dataset) -> Dataset:
        """At most `max_samples` rows, drawn by the seed."""
        most = self.options.max_samples
        if most is None or most >= len(split):
            return split
        rows = np.random.default_rng(self.options.seed).permutation(len(split))[:most]
        return split.select(np.sort(rows))

    def choose_tasks(self) -> list[str]:
        """The requested tasks, or all that the data allows except robustness.

        Robustness embeds the images many times over.

        Raises:
            DataError: a requested task needs data that is missing.
        """
        has = {
            "captions": bool(self.columns.captions),
            "labels": self.columns.label is not None,
            "train_split": self.train_split is not None,
        }
        missing = {task: [n for n in needs if not has[n]] for task, needs in NEEDS.items()}
        for task in self.options.tasks or []:
            if missing[task]:
                raise DataError(
                    f"{task} on {self.options.dataset!r} needs {ABSENT[missing[task][0]]}"
                )
        usual = [task for task in NEEDS if task != "robustness" and not missing[task]]
        return self.options.tasks or usual

    def __call__(self) -> EvaluationReport | None:
        images = self.embed(self.split)
        if len(images.rows) < 2:
            raise DataError(
                f"split {self.split_name!r} of {self.options.dataset!r} has one usable image: "
                "there is nothing to tell it from"
            )
        classes = self.embed_classes()
        train = None
        if {"linear_probe", "knn"} & set(self.tasks) and self.train_split is not None:
            train = self.embed(self.draw(self.train_split))
        captions = self.embed_captions(images.rows)
        metrics: list[Metric] = []
        diagrams: dict[str, Reliability] = {}
        is_main = PartialState().is_main_process
        if is_main:
            if "retrieval" in self.tasks:
                metrics += self.retrieve(images, captions)
            if "zero_shot" in self.tasks:
                found = measure_zero_shot(images.embeds, classes, images.labels)
                metrics += self.of_label("zero_shot", found)
            if "calibration" in self.tasks:
                found, diagrams = measure_calibration(
                    images.embeds, classes, images.labels, self.scale, self.bias, self.options.seed
                )
                metrics += self.of_label("calibration", found)
            if train is not None:
                metrics += self.learn(train, images)
        if "robustness" in self.tasks:
            metrics += self.damage(captions, classes)
        if not is_main:
            return None
        return EvaluationReport(
            metrics, diagrams, self.split_name, self.columns, len(images.rows), self.bad
        )

    def embed(self, split: Dataset, damage: Damage | None = None) -> Images:
        """Embed a split; what cannot be decoded is left out and noted the first time."""
        options = self.options
        labels = self.read_labels(split)
        embeds, rows, bad = self.embedder.embed_rows(
            split,
            self.columns.image,
            options.dataset,
            options.max_bad_sample_ratio,
            damage,
            {**labels.problems, **rows_without_text(split, self.caption_columns())},
        )
        if damage is None:
            self.bad.seen += bad.seen
            self.bad.count += bad.count
            self.bad.examples += bad.examples
        of_rows = torch.tensor(labels.rows, dtype=torch.long)
        return Images(embeds, rows, of_rows[rows] if labels.names else of_rows)

    def read_labels(self, split: Dataset) -> Labels:
        """Names of the classes, and the class of each row; none where no task needs them."""
        label = self.columns.label
        if label is None or set(self.tasks) == {"retrieval"}:
            return Labels([], [])
        return read_labels(split, label, self.options.dataset, self.class_names or None)

    def keys(self) -> Sequence:
        """What each row shows: rows with an equal key belong together."""
        return read_keys(self.split, self.columns.concept, self.options.dataset)

    def caption_columns(self) -> list[str]:
        """The columns of captions that a task needs."""
        is_needed = {"retrieval", "robustness"} & set(self.tasks)
        return self.columns.captions if is_needed else []

    def read_captions(self, column: str, rows: Sequence[int]) -> tuple[list[str], list]:
        """The texts of some rows that ask, and the key that each asks for."""
        captions = list(self.split[column])
        return list_captions(captions, self.keys(), rows, column, self.options.dataset)

    def embed_captions(self, rows: list[int]) -> dict[str, tuple[torch.Tensor, list]]:
        """For each caption column the texts' embeddings, and the key that each text asks for."""
        found = {}
        for column in self.caption_columns():
            texts, asked = self.read_captions(column, rows)
            found[column] = (self.embedder.embed_texts(texts), asked)
        return found

    def embed_classes(self) -> torch.Tensor:
        """Embeddings of the class names in their phrases, (C, P); none where no task needs them."""
        if not self.class_names or not {"zero_shot", "calibration", "robustness"} & set(self.tasks):
            return torch.empty(0, self.embedder.width)
        return average_phrases(self.embedder.embed_texts(self.texts), len(self.class_names))

    def retrieve(
        self,
        images: Images,
        captions: dict[str, tuple[torch.Tensor, list]],
        directions: Sequence[str] = ("text_to_image", "image_to_text"),
    ) -> list[Metric]:
        """Retrieval metrics of every caption column, each way."""
        keys = self.keys()
        numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        image_ids = torch.tensor([numbers[keys[row]] for row in images.rows])
        metrics: list[Metric] = []
        for column, (text_embeds, asked) in captions.items():
            text_ids = torch.tensor([numbers[key] for key in asked])
            has_text = torch.isin(image_ids, text_ids)
            asking = images.embeds[has_text], image_ids[has_text]
            sides = {
                "text_to_image": (text_embeds, images.embeds, text_ids, image_ids),
                "image_to_text": (asking[0], text_embeds, asking[1], text_ids),
            }
            for direction in directions:
                found = measure_retrieval(*sides[direction])
                where = {"of": column, "direction": direction}
                metrics += make_metrics(found, "retrieval", self.split_name, **where)
        return metrics

    def of_label(self, task: str, values: dict[str, float]) -> list[Metric]:
        """Figures of the column of classes."""
        return make_metrics(values, task, self.split_name, of=str(self.columns.label))

    def learn(self, train: Images, images: Images) -> list[Metric]:
        """What a linear probe and neighbours learn of another split."""
        given = (train.embeds, train.labels, images.embeds, images.labels, len(self.class_names))
        metrics: list[Metric] = []
        if "linear_probe" in self.tasks:
            found = measure_linear_probe(*given, self.options.seed)
            metrics += self.of_label("linear_probe", found)
        if "knn" in self.tasks:
            metrics += self.of_label("knn", measure_neighbours(*given))
        return metrics

    def damage(
        self, captions: dict[str, tuple[torch.Tensor, list]], classes: torch.Tensor
    ) -> list[Metric]:
        """Zero-shot accuracy and text-to-image R@1 on corrupted images.

        The condition is the corruption and its severity, `contrast/3`; `contrast/mean` is the mean
        over severities, `all/mean` that over corruptions, and `none/mean` the uncorrupted crop.
        """
        clean = self.measure_damaged(None, 0, captions, classes)
        results: dict[str, list[Metric]] = {}
        for name in CORRUPTIONS:
            found = [self.measure_damaged(name, s, captions, classes) for s in SEVERITIES]
            results |= {f"{name}/{s}": one for s, one in zip(SEVERITIES, found, strict=True)}
            results[f"{name}/mean"] = average(found)
        results["all/mean"] = average([results[f"{name}/mean"] for name in CORRUPTIONS])
        results["none/mean"] = clean
        return [
            replace(metric, task="robustness", condition=condition)
            for condition, found in results.items()
            for metric in found
        ]

    def measure_damaged(
        self,
        name: str | None,
        severity: int,
        captions: dict[str, tuple[torch.Tensor, list]],
        classes: torch.Tensor,
    ) -> list[Metric]:
        """Embed every image with one corruption, and measure; empty except in the main process."""
        if PartialState().is_main_process and name is not None:
            print(f"robustness: {name}, severity {severity}", file=sys.stderr)
        damage = Damage(name, severity, self.options.seed, self.embedder.encoder.image_size)
        images = self.embed(self.split, damage)
        if not PartialState().is_main_process:
            return []
        found = self.retrieve(images, captions, ["text_to_image"])
        metrics = [metric for metric in found if metric.name == "R@1"]
        if self.class_names:
            accuracy = measure_zero_shot(images.embeds, classes, images.labels)["accuracy"]
            metrics += self.of_label("zero_shot", {"accuracy": accuracy})
        return metrics


def choose_split(splits: DatasetDict) -> str:
    """The split that is evaluated on where none is named."""
    return next((name for name in ("validation", "test") if name in splits), next(iter(splits)))


def choose_train_split(
    splits: DatasetDict, evaluated: str, options: EvaluationOptions
) -> Dataset | None:
    """The split that a probe learns from: the one that is named, or `train`.

    Raises:
        DataError: it is not there, empty, or the one that is evaluated on.
    """
    name = options.train_split
    if name == evaluated:
        raise DataError(f"train_split={name!r} is not allowed: it is evaluated on")
    if name is None and ("train" not in splits or evaluated == "train"):
        return None
    return get_split(splits, name or "train", options.dataset)


def average(found: list[list[Metric]]) -> list[Metric]:
    """The mean of each metric over several measurements of the same ones."""
    return [
        replace(same[0], value=sum(metric.value for metric in same) / len(same))
        for same in zip(*found, strict=True)
    ]
