"""One split to evaluate on: opened and checked, before anything is embedded."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import ClassLabel, Dataset, DatasetDict, Value

from ..data.captions import find_texts
from ..data.columns import check_columns, read_keys
from ..data.errors import DataError
from ..data.labels import Labels, read_labels
from ..data.sources import get_split
from ..inference.class_names import class_texts
from .columns import EvaluationColumns, choose_columns
from .images import ImageRows, OpenImages, SplitImages
from .options import EvaluationOptions


@dataclass
class LabelledSplit:
    """Images with classes, which a probe learns from."""

    images: SplitImages
    labels: dict[str, Labels]


@dataclass
class Distractors:
    """Images that join a gallery.

    Args:
        images: the images.
        keys: the key of each row.
    """

    images: SplitImages
    keys: Sequence[Hashable]


@dataclass
class EvaluationSet:
    """One split to evaluate on.

    Args:
        options: what they leave open is filled in by the other fields.
        split: its name.
        columns: the columns that are used.
        images: its images.
        keys: the key of each row; rows with an equal key are correct matches for each other.
        captions: caption column -> a caption, or a list of captions, of each row.
        labels: label column -> the classes.
        texts: label column -> the class names in their templates, as `class_texts` lists them.
        distractors: images of other splits in the gallery.
        train: what a probe learns from; None for nothing.
        tasks: names of the tasks to evaluate.
    """

    options: EvaluationOptions
    split: str
    columns: EvaluationColumns
    images: SplitImages
    keys: Sequence[Hashable]
    captions: dict[str, Sequence[str | Sequence[str]]]
    labels: dict[str, Labels]
    texts: dict[str, list[str]]
    distractors: list[Distractors]
    train: LabelledSplit | None
    tasks: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What its metrics are called."""
        return self.options.name or self.split

    def queries(self, column: str, rows: Iterable[int]) -> tuple[list[str], list[Hashable]]:
        """The captions of some rows, and the key that each asks for."""
        captions, path = self.captions[column], self.options.dataset
        return list_captions(captions, self.keys, rows, column, path)

    def example(self, column: str, row: int) -> str:
        """The first caption of a row; empty if it has none."""
        return next(iter(find_texts(self.captions[column][row])), "")


class SplitReader:
    """Reads the parts of an `EvaluationSet` that its tasks need.

    Args:
        options: what to evaluate on.
        splits: the splits of the dataset.
        class_names: the classes, where the model defines them.

    Raises:
        DataError: the split does not exist, or a column that the options name does not.
    """

    def __init__(
        self,
        options: EvaluationOptions,
        splits: DatasetDict,
        class_names: Sequence[str] | None = None,
    ):
        self.options, self.splits = options, splits
        self.path, self.class_names = options.dataset, class_names
        self.name = options.split or choose_split(splits)
        hint = "; name another with split, or evaluate nothing with evaluations: []"
        split = get_split(splits, self.name, self.path, hint if options.split else "")
        self.split = draw(filter_rows(split, options.filter, self.path), options)
        self.columns = choose_columns(self.split, options, self.path)
        self.train_split = choose_train_split(splits, self.name, options)

    def read(
        self, tasks: list[str], uses: Collection[str], open_images: OpenImages
    ) -> EvaluationSet:
        """Read what is used, and check all that could be wrong with the rows.

        Args:
            tasks: names of the tasks.
            uses: of `captions`, `labels`, `class_names` and `train_split`, what the tasks use.
            open_images: opens the images.

        Raises:
            DataError: too many rows cannot be used.
        """
        columns, options = self.columns, self.options
        caption_columns = columns.captions if "captions" in uses else []
        label_columns = columns.labels if {"labels", "class_names"} & set(uses) else []
        labels = {
            column: read_labels(self.split, column, self.path, self.class_names)
            for column in label_columns
        }
        templates = options.templates if "class_names" in uses else []
        problems = find_problems(self.split, caption_columns, labels)
        opened = EvaluationSet(
            options=options,
            split=self.name,
            columns=columns,
            images=self.open(self.split, open_images, problems),
            keys=read_keys(self.split, columns.concept, self.path),
            captions={column: list(self.split[column]) for column in caption_columns},
            labels=labels,
            texts={name: class_texts(column.names, templates) for name, column in labels.items()},
            distractors=[
                self.read_distractors(name, open_images) for name in options.gallery_splits
            ],
            train=self.read_train_split(labels, open_images) if "train_split" in uses else None,
            tasks=tasks,
        )
        for column in caption_columns:
            opened.queries(column, range(len(self.split)))
        return opened

    def open(
        self, split: Dataset, open_images: OpenImages, problems: Mapping[int, str]
    ) -> SplitImages:
        """The images of a split."""
        ratio = self.options.max_bad_sample_ratio
        return open_images(ImageRows(split, self.columns.image, self.path, problems, ratio))

    def read_distractors(self, name: str, open_images: OpenImages) -> Distractors:
        """Another split, whose images join the gallery.

        Raises:
            DataError: it does not exist, or is the one that is evaluated on.
        """
        if name == self.name:
            raise DataError(f"gallery_splits={name!r} is not allowed: it is evaluated on")
        split = get_split(self.splits, name, self.path)
        keys: Sequence[Hashable] = [(name, row) for row in range(len(split))]
        if self.columns.concept is not None:
            keys = [
                # A row without a value stands for itself, and its number is that of another split.
                (name, *key) if isinstance(key, tuple) else key
                for key in read_keys(split, self.columns.concept, self.path)
            ]
        return Distractors(self.open(split, open_images, {}), keys)

    def read_train_split(
        self, labels: Mapping[str, Labels], open_images: OpenImages
    ) -> LabelledSplit | None:
        """The split that a probe learns from, with the classes of the evaluated one."""
        if self.train_split is None:
            return None
        split = draw(self.train_split, self.options)
        train = {
            column: read_labels(split, column, self.path, classes.names)
            for column, classes in labels.items()
        }
        return LabelledSplit(self.open(split, open_images, find_problems(split, [], train)), train)


def choose_split(splits: DatasetDict) -> str:
    """The split that is evaluated on by default."""
    return next((name for name in ("validation", "test") if name in splits), next(iter(splits)))


def choose_train_split(
    splits: DatasetDict, evaluated: str, options: EvaluationOptions
) -> Dataset | None:
    """The split that a probe learns from: the named one, or `train`; None if there is none.

    Raises:
        DataError: it does not exist, is empty, or is the one that is evaluated on.
    """
    name = options.train_split
    if name == evaluated:
        raise DataError(f"train_split={name!r} is not allowed: it is evaluated on")
    if name is None and ("train" not in splits or evaluated == "train"):
        return None
    return get_split(splits, name or "train", options.dataset)


def filter_rows(split: Dataset, wanted: Mapping[str, str], path: str) -> Dataset:
    """The rows whose columns have the wanted values, class labels by their names.

    Args:
        split: the rows.
        wanted: column -> value.
        path: name of the dataset in messages.

    Raises:
        DataError: there is no such column, no such class, or no such row.
    """
    for column, value in wanted.items():
        check_columns(split.column_names, [column], path)
        code = stored_value(split.features[column], value)
        values = split[column]
        split = split.select([row for row, other in enumerate(values) if other == code])
        if len(split) == 0:
            raise DataError(f"filter={dict(wanted)} leaves no row: none has {column}={value!r}")
    return split


def stored_value(feature: Any, value: str) -> Any:
    """A value of a filter as a column stores it; None where the column cannot hold it."""
    if isinstance(feature, ClassLabel):
        names = feature.names or []
        return names.index(value) if value in names else None
    if not isinstance(feature, Value):
        return value
    try:
        return pa.scalar(value).cast(feature.pa_type).as_py()
    except pa.ArrowException:
        return None


def draw(split: Dataset, options: EvaluationOptions) -> Dataset:
    """At most `max_samples` rows, drawn with the seed."""
    most = options.max_samples
    if most is None or most >= len(split):
        return split
    rows = np.random.default_rng(options.seed).permutation(len(split))[:most]
    return split.select(np.sort(rows))


def find_problems(
    split: Dataset, caption_columns: Sequence[str], labels: Mapping[str, Labels]
) -> dict[int, str]:
    """Row -> what is wrong with it, for the rows that no task can use."""
    causes = [classes.problems for classes in labels.values()]
    if caption_columns:
        causes.append(rows_without_text(split, caption_columns))
    if not causes:
        return {}
    rows = set.intersection(*(set(problems) for problems in causes))
    return {row: " and ".join(problems[row] for problems in causes) for row in sorted(rows)}


def rows_without_text(split: Dataset, columns: Sequence[str]) -> dict[int, str]:
    """Row -> what is wrong with it, of those that have no text in any of the caption columns."""
    rows = zip(*(split[column] for column in columns), strict=True)
    empty = (row for row, values in enumerate(rows) if not any(map(find_texts, values)))
    names = " and ".join(map(repr, columns))
    return {row: f"its {names} {'are' if len(columns) > 1 else 'is'} empty" for row in empty}


def list_captions(
    captions: Sequence[str | Sequence[str]],
    keys: Sequence[Hashable],
    rows: Iterable[int],
    column: str,
    path: str,
) -> tuple[list[str], list[Hashable]]:
    """The query texts, each with the key that it asks for.

    A text is one query per key, however many images have that key. A row without a text gives none.

    Args:
        captions: one caption or several of each row.
        keys: key of each row; rows with an equal key belong together.
        rows: the rows whose captions are queries.
        column, path: names in messages.

    Raises:
        DataError: no row has a text.
    """
    asked: dict[tuple[str, Hashable], None] = {}
    for row in rows:
        asked.update(((text, keys[row]), None) for text in find_texts(captions[row]))
    if not asked:
        raise DataError(f"every {column!r} of {path!r} is empty: name another of caption_columns")
    return [text for text, _ in asked], [key for _, key in asked]
