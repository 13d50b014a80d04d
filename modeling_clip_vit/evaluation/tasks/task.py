"""What a task of evaluation is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from ..embedding import EmbeddedSet
from ..metrics import Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes

#: Draws into one panel of the report's figure.
Panel = Callable[["Axes"], None]

#: What a task can need, and how a message says that it is missing.
NEEDS: Mapping[str, str] = {
    "embeddings": "a CLIP: a classifier has no embeddings of texts",
    "class_head": "a model with a class head",
    "captions": "a column of captions: name it with caption_columns",
    "class_names": "a column of class labels: name it with label_columns",
    "labels": "a column of class labels: name it with label_columns",
    "train_split": "another split to learn from: name it with train_split",
}


class EvaluationTask(ABC):
    """One thing to measure of a model on a split.

    A new task is a subclass in a file of its own and a line in `TASKS`.
    """

    #: Its name in the options and in metrics.
    name: ClassVar[str]
    #: Its heading in the report.
    title: ClassVar[str]
    #: What it needs, by the keys of `NEEDS`; it is only measured where all of them are there.
    needs: ClassVar[tuple[str, ...]] = ("embeddings",)
    #: What it also uses, where it is there.
    uses: ClassVar[tuple[str, ...]] = ()
    #: Whether it is measured unless the options name the tasks.
    is_default: ClassVar[bool] = True
    #: Whether it embeds images itself, so that all processes take part.
    embeds_images: ClassVar[bool] = False
    #: The metrics that a run prints at its end; it draws the first one over its steps.
    headlines: ClassVar[tuple[str, ...]] = ("accuracy",)
    #: Metrics that are no shares of 1, and are not written in percent.
    not_shares: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def measure(self, data: EmbeddedSet) -> list[Metric]:
        """Measure.

        Args:
            data: the split and its embeddings; `data.metrics` makes metrics of named values.
        """

    def panels(self, metrics: list[Metric]) -> list[Panel]:
        """Draw what bars cannot show, one panel each; called after `measure`."""
        return []
