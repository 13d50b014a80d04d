"""Evaluate a model on a split: what the command and a training run have in common."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from datasets import DatasetDict

from ..data.errors import DataError
from ..inference.classifier import TorchClassifier
from ..inference.loading import Encoder
from .dataset import EvaluationSet, SplitReader
from .embedding import embed
from .images import EmbeddedImages, OpenImages
from .metrics import Metric
from .options import EvaluationOptions
from .sharing import SharedEncoder
from .tasks import NEEDS, TASKS, EvaluationTask, check_tasks


@dataclass
class EvaluationReport:
    """What was measured, and on what.

    Args:
        metrics: shares are from 0 to 1.
        tasks: the tasks that measured them, which draw what bars cannot show.
        source: the split.
        images: its images.
    """

    metrics: list[Metric]
    tasks: list[EvaluationTask]
    source: EvaluationSet
    images: EmbeddedImages


def open_evaluation(
    options: EvaluationOptions,
    splits: DatasetDict,
    open_images: OpenImages,
    class_names: Sequence[str] | None = None,
) -> EvaluationSet:
    """Open a split, and check that it has what the tasks need.

    Args:
        options: what to evaluate on.
        splits: the splits of the dataset.
        open_images: opens the images of a split.
        class_names: the classes of a model with a class head; None for a CLIP.

    Raises:
        DataError: the data lacks what a task needs, or too many rows cannot be used.
        UserError: there is no such task.
    """
    check_tasks(options.tasks or [])
    reader = SplitReader(options, splits, class_names)
    available = {
        "embeddings": class_names is None,
        "class_head": class_names is not None,
        "captions": bool(reader.columns.captions),
        "class_names": bool(reader.columns.labels),
        "labels": bool(reader.columns.labels),
        "train_split": reader.train_split is not None,
    }
    names = choose_tasks(options, [name for name, is_there in available.items() if is_there])
    return reader.read(names, list_uses(names), open_images)


def choose_tasks(options: EvaluationOptions, available: Collection[str]) -> list[str]:
    """The requested tasks, or the default ones that the data and the model allow.

    Raises:
        DataError: a requested task needs what is missing.
    """
    missing = {
        name: [need for need in task.needs if need not in available] for name, task in TASKS.items()
    }
    for name in options.tasks or []:
        if missing[name]:
            raise DataError(f"{name} on {options.dataset!r} needs {NEEDS[missing[name][0]]}")
    default = [name for name, task in TASKS.items() if task.is_default and not missing[name]]
    if not options.tasks and not default:
        needs = dict.fromkeys(NEEDS[needed[0]] for needed in missing.values() if needed)
        raise DataError(
            f"there is nothing to measure of this model on {options.dataset!r}: the tasks need "
            f"{'; or '.join(needs)}"
        )
    return options.tasks or default


def list_uses(names: Collection[str]) -> set[str]:
    """What some tasks use, by the keys of `NEEDS`."""
    return {used for name in names for used in (*TASKS[name].needs, *TASKS[name].uses)}


def evaluate(
    source: EvaluationSet, encoder: Encoder | TorchClassifier, is_alone: bool = False
) -> EvaluationReport | None:
    """Evaluate a model on a split.

    Args:
        source: the split.
        encoder: a CLIP, an export of one, or a classifier.
        is_alone: this process does all the work. Otherwise all processes call this together and
            share the rows.

    Returns:
        The report, in the main process; None in all others.

    Raises:
        DataError: too many images cannot be decoded, or there is only one usable image.
    """
    options = source.options
    shared = SharedEncoder(encoder, options.batch_size, options.num_workers, is_alone)
    data = embed(source, shared, list_uses(source.tasks))
    if len(data.images.rows) < 2:
        raise DataError(
            f"split {source.split!r} of {options.dataset!r} has one usable image: "
            "there is nothing to tell it from"
        )
    tasks = [TASKS[name]() for name in TASKS if name in source.tasks]
    metrics: list[Metric] = []
    for task in tasks:
        if data.is_main or task.embeds_images:
            metrics += task.measure(data)
    return EvaluationReport(metrics, tasks, source, data.images) if data.is_main else None


def evaluate_run(
    sources: Sequence[EvaluationSet],
    encoder: Encoder | TorchClassifier,
    is_end: bool = True,
    is_alone: bool = True,
) -> list[Metric]:
    """Evaluate a model on all that a recipe names.

    Args:
        sources: the splits.
        encoder: a CLIP, an export of one, or a classifier.
        is_end: also evaluate what the recipe evaluates at the end only.
        is_alone: this process does all the work. Otherwise all processes call this together.

    Returns:
        The metrics; where processes share the rows, in the main process only.

    Raises:
        DataError: a split has only one usable image.
    """
    metrics: list[Metric] = []
    for source in sources:
        if is_end or not source.options.only_at_end:
            report = evaluate(source, encoder, is_alone)
            metrics += report.metrics if report else []
    return metrics
