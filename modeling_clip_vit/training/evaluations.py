"""Open what a run is evaluated on."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from datasets import Dataset, DatasetDict

from ..data.captions import CaptionMaker, CaptionOptions
from ..data.columns import check_columns, column_kinds
from ..data.sources import open_dataset
from ..evaluation.dataset import EvaluationSet, choose_split
from ..evaluation.evaluate import open_evaluation
from ..evaluation.images import OpenImages
from ..evaluation.options import EvaluationOptions
from ..evaluation.tasks import TASKS
from .options import DataOptions


@dataclass
class TrainedOn:
    """The dataset of a run, whose columns an evaluation has by default.

    Args:
        splits: its splits.
        data: its options, with the columns that are used.
        captions: where its texts come from.
        class_names: its classes; empty for none.
    """

    splits: DatasetDict
    data: DataOptions
    captions: CaptionOptions
    class_names: Sequence[str]


def open_evaluations(
    trained_on: TrainedOn, open_images: OpenImages, is_classifier: bool = False
) -> list[EvaluationSet]:
    """Open and decode what a run is evaluated on, in the order of its recipe.

    Args:
        trained_on: the dataset of the run.
        open_images: decodes the images of a split as the model takes them.
        is_classifier: whether the model has a class head in place of a text tower.

    Raises:
        DataError: a split or a column does not exist, or too many rows cannot be used.
    """
    class_names = trained_on.class_names if is_classifier else None
    opened = []
    for options in trained_on.data.evaluations:
        if options.tasks is None:
            options = replace(options, tasks=["classification" if is_classifier else "retrieval"])
        if options.dataset and options.dataset != trained_on.data.dataset:
            splits = open_dataset(options.dataset, options.image_column)
        else:
            options = fill_in(options, trained_on, is_classifier)
            splits = add_texts(options, trained_on, is_classifier)
        opened.append(open_evaluation(options, splits, open_images, class_names))
    return opened


def fill_in(
    options: EvaluationOptions, trained_on: TrainedOn, is_classifier: bool
) -> EvaluationOptions:
    """The options with what the run's own dataset gives where they leave it open."""
    data, captions = trained_on.data, trained_on.captions
    texts = captions.sources() if reads_texts(options) and not is_classifier else []
    concept = data.concept_column or captions.label_column
    if concept is None and len(texts) == 1:
        concept = texts[0]
    labels = [captions.label_column] if captions.label_column else None
    ratio = options.max_bad_sample_ratio
    if ratio == EvaluationOptions.max_bad_sample_ratio:
        ratio = data.max_bad_sample_ratio
    return replace(
        options,
        dataset=data.dataset,
        split=options.split or choose_split(trained_on.splits),
        image_column=options.image_column or data.image_column,
        caption_columns=texts if options.caption_columns is None else options.caption_columns,
        label_columns=labels if options.label_columns is None else options.label_columns,
        concept_column=options.concept_column or (None if is_classifier else concept),
        max_bad_sample_ratio=ratio,
    )


def reads_texts(options: EvaluationOptions) -> bool:
    """Whether a task of an evaluation reads the texts of the rows."""
    return any("captions" in TASKS[task].needs for task in options.tasks or [])


def add_texts(
    options: EvaluationOptions, trained_on: TrainedOn, is_classifier: bool
) -> DatasetDict:
    """The splits, the evaluated one with a column of texts for each source of captions."""
    splits = trained_on.splits
    if is_classifier or not reads_texts(options):
        return splits
    return DatasetDict(
        {
            name: add_texts_to(split, trained_on) if name == options.split and split else split
            for name, split in splits.items()
        }
    )


def add_texts_to(split: Dataset, trained_on: TrainedOn) -> Dataset:
    """A split with a column of texts for each source of captions that is not a text column."""
    data, options = trained_on.data, replace(trained_on.captions, tags_columns={})
    check_columns(split.column_names, [str(data.image_column)], data.dataset)
    captions = CaptionMaker(split, options, data.dataset, list(trained_on.class_names) or None)
    for name, texts in captions.plain_texts().items():
        if column_kinds(split.features).get(name) in ("text", "texts"):
            continue
        if name in split.column_names:
            split = split.remove_columns(name)
        split = split.add_column(name, texts)
    return split
