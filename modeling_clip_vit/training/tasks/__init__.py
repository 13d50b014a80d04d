"""What a run learns, one task a file. The trainer knows no task by its name."""

from ...utils.errors import UserError
from .classification import ClassificationTask
from .contrastive import ContrastiveTask
from .task import Preparation, Task

#: The tasks of a recipe, by name.
TASKS: dict[str, type[Task]] = {
    "contrastive": ContrastiveTask,
    "classification": ClassificationTask,
}


def find_task(name: str) -> type[Task]:
    """The task of this name.

    Raises:
        UserError: there is none.
    """
    if name not in TASKS:
        raise UserError(f"task={name!r} is not allowed: it must be one of {', '.join(TASKS)}")
    return TASKS[name]


__all__ = ["TASKS", "ClassificationTask", "ContrastiveTask", "Preparation", "Task", "find_task"]
