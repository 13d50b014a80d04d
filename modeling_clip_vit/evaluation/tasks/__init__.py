"""What can be measured of a model, one task a file."""

from collections.abc import Iterable

from ...utils.errors import UserError
from ..metrics import Metric
from .calibration import CalibrationTask
from .classification import ClassificationTask
from .few_shot import FewShotTask
from .knn import NeighboursTask
from .linear_probe import LinearProbeTask
from .retrieval import RetrievalTask
from .robustness import RobustnessTask
from .task import NEEDS, EvaluationTask
from .zero_shot import ZeroShotTask

#: Every task by its name, in the order in which they are measured and reported.
TASKS: dict[str, type[EvaluationTask]] = {
    task.name: task
    for task in (
        RetrievalTask,
        ZeroShotTask,
        CalibrationTask,
        LinearProbeTask,
        NeighboursTask,
        FewShotTask,
        RobustnessTask,
        ClassificationTask,
    )
}


def check_tasks(names: Iterable[str]):
    """Reject a task that does not exist.

    Raises:
        UserError: the message lists those that do.
    """
    for name in names:
        if name not in TASKS:
            raise UserError(f"tasks={name!r} is not allowed: choose from {', '.join(TASKS)}")


def is_headline(metric: Metric) -> bool:
    """Whether a metric is the first one of its task."""
    return metric.name in TASKS[metric.task].headlines[:1]


__all__ = ["NEEDS", "TASKS", "EvaluationTask", "check_tasks", "is_headline"]
