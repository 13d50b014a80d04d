"""What a task is to the trainer."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import torch
from accelerate import Accelerator
from huggingface_hub import ModelCard
from torch import nn
from transformers import AutoProcessor, PreTrainedModel

from ...evaluation.metrics import Metric
from ...hub.model_card import CardFacts
from ...inference.pictures import Found
from ...utils.errors import UserError
from ..arguments import TrainArguments
from ..datasets import TrainingData
from ..restart import Restart

#: Measures a model: `(model, processor, everything)`, where `everything` is for the end of a run.
Evaluate = Callable[[Any, Any, bool], list[Metric]]
#: The class of models that a task trains.
Model = TypeVar("Model", bound=PreTrainedModel)
#: A scalar on some device, or already read from it.
Value = float | torch.Tensor


@dataclass
class Preparation:
    """All that a run needs before its first step.

    Args:
        model: the model to train, on the CPU and in float32.
        processor: prepares its inputs, and is saved with it.
        data: the batches.
        evaluator: measures the model; None for no evaluation.
        frozen: modules that do not learn and stay in evaluation mode.
        class_names: names of the classes in their order; empty for none.
    """

    model: PreTrainedModel
    processor: Any
    data: TrainingData
    evaluator: Evaluate | None
    frozen: list[nn.Module]
    class_names: list[str] = field(default_factory=list)


class Task(ABC, Generic[Model]):
    """What a run learns, and how: everything that the trainer leaves open.

    Args:
        args: of the run.

    Raises:
        UserError: the arguments have an option that does not apply to this task.
    """

    #: Loads the processor that a checkpoint keeps.
    processor_class: ClassVar[Any] = AutoProcessor
    #: Options that have no meaning here and must be left at their default.
    inapplicable_options: ClassVar[tuple[str, ...]] = ()
    #: Why they have none, as the end of a sentence.
    inapplicable_because: ClassVar[str] = ""

    def __init__(self, args: TrainArguments):
        self.args = args
        values, defaults = args.to_flat_dict(), TrainArguments().to_flat_dict()
        for name in self.inapplicable_options:
            if values[name] != defaults[name]:
                raise UserError(
                    f"{name}={values[name]} is not allowed with task={args.run.task!r}, "
                    f"{self.inapplicable_because}: leave it at {defaults[name]}"
                )

    @abstractmethod
    def prepare(self, restart: Restart) -> Preparation:
        """Open the data, and build or load the model.

        Args:
            restart: what a checkpoint keeps, of a run that is resumed.

        Raises:
            DataError, UserError: the data or the model is not as the arguments ask for; nothing has
                been written then.
        """

    @abstractmethod
    def towers(self, model: Model) -> list[PreTrainedModel]:
        """The Transformers of a model, whose blocks are recomputed, compiled or frozen."""

    def configure(
        self, preparation: Preparation, accelerator: Accelerator, has_idle_parameters: bool
    ):
        """Set up the model and what the loss needs, before the accelerator wraps the model.

        Args:
            preparation: of the run; its model is changed in place.
            accelerator: of the run.
            has_idle_parameters: whether some parameters get no gradient in the first updates.

        Raises:
            UserError: the model does not fit the arguments.
        """

    @abstractmethod
    def backward(
        self,
        model: nn.Module,
        unwrapped: Model,
        batch: dict,
        propagate: Callable[[torch.Tensor], None],
        is_logged: bool,
    ) -> dict[str, Value]:
        """Compute the gradients of a batch.

        Args:
            model: as the accelerator wrapped it.
            unwrapped: the same without the wrapping.
            batch: of this process.
            propagate: backpropagates a loss.
            is_logged: whether the values of this update are logged.

        Returns:
            The `loss`, and other values to log.
        """

    def after_update(self, unwrapped: Model):
        """Keep weights within their bounds after an update."""

    def describe_weights(self, unwrapped: Model) -> dict[str, float]:
        """Values of the weights to log."""
        return {}

    def write_extra_files(self, folder: Path):
        """Write the files of a finished model's folder other than model and processor."""

    def searches(self, preparation: Preparation) -> list[tuple[str, list[Found]]]:
        """Examples of what the model finds, to be drawn; empty where it searches nothing."""
        return []

    @abstractmethod
    def describe_batch(self, batch: dict, preparation: Preparation) -> list[str]:
        """What each image of a batch shows, for a preview."""

    @abstractmethod
    def image_size(self, model: Model) -> int:
        """Side of the images that the model was made for, in pixels."""

    @abstractmethod
    def build_card(self, facts: CardFacts) -> ModelCard:
        """The model card of a finished run."""


def describe_mixed(first: str, second: str, weight: float, length: int = 22) -> str:
    """What a mixed image shows: the beginnings of two texts, with the weight of each."""
    short = (text if len(text) <= length else text[: length - 1] + "…" for text in (first, second))
    return f"{weight:.2f} {next(short)} + {1 - weight:.2f} {next(short)}"
