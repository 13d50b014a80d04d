"""What a task is to the trainer."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

import torch
from accelerate import Accelerator
from torch import nn
from transformers import AutoProcessor, CLIPImageProcessor, CLIPProcessor, PreTrainedModel

from ...data.columns import Columns
from ...evaluation.dataset import EvaluationSet
from ...evaluation.tasks import check_tasks
from ...hub.card_facts import CardFacts
from ...hub.model_card import build_model_cards
from ...inference.classifier import TorchClassifier
from ...inference.loading import TorchEncoder
from ...inference.pictures import Found, shorten
from ...utils.errors import UserError
from ..arguments import TrainArguments
from ..datasets import TrainingData
from ..restart import Restart
from ..stored_features import Embedder

ModelT = TypeVar("ModelT", bound=PreTrainedModel)
#: What prepares the inputs of the model.
ProcessorT = TypeVar("ProcessorT", bound=CLIPProcessor | CLIPImageProcessor)
#: Whether a batch has as many images, and as many texts, on all processes.
EQUAL_SHARES = "has_equal_shares"
#: A scalar on some device, or already read from it.
Value = float | torch.Tensor


@dataclass
class Preparation(Generic[ModelT, ProcessorT]):
    """All that a run needs before its first step.

    Args:
        model: the model to train, on the CPU and in float32.
        processor: prepares its inputs, and is saved with it.
        data: the batches.
        evaluations: what the model is evaluated on.
        frozen: modules that do not learn and stay in evaluation mode.
        columns: the columns of the dataset that the run reads.
        class_names: names of the classes in their order; empty for none.
        new_parts: beginnings of the names of weights that no checkpoint has given.
    """

    model: ModelT
    processor: ProcessorT
    data: TrainingData
    evaluations: list[EvaluationSet]
    frozen: list[nn.Module]
    columns: Columns
    class_names: list[str] = field(default_factory=list)
    new_parts: list[str] = field(default_factory=list)


class Task(ABC, Generic[ModelT, ProcessorT]):
    """What a run learns, and how: everything that the trainer leaves open.

    Args:
        args: of the run.

    Raises:
        UserError: the arguments have an option that does not apply to this task.
    """

    #: Loads the processor that a checkpoint keeps.
    processor_class: ClassVar[type] = AutoProcessor
    #: Options that have no meaning here and must be left at their default.
    inapplicable_options: ClassVar[tuple[str, ...]] = ()
    #: Why they have none, as the end of a sentence.
    inapplicable_because: ClassVar[str] = ""

    def __init__(self, args: TrainArguments):
        self.args = args
        for evaluation in args.data.evaluations:
            check_tasks(evaluation.tasks or [])
        values, defaults = args.to_flat_dict(), TrainArguments().to_flat_dict()
        for name in self.inapplicable_options:
            if values[name] != defaults[name]:
                raise UserError(
                    f"{name}={values[name]} is not allowed with task={args.run.task!r}, "
                    f"{self.inapplicable_because}: leave it at {defaults[name]}"
                )

    @abstractmethod
    def prepare(self, restart: Restart) -> Preparation[ModelT, ProcessorT]:
        """Open the data, and build or load the model.

        Args:
            restart: what a checkpoint keeps, of a run that is resumed.

        Raises:
            DataError, UserError: the data or the model is not as the arguments ask for; nothing has
                been written then.
        """

    @abstractmethod
    def towers(self, model: ModelT) -> list[PreTrainedModel]:
        """The towers of a model, each a stack of blocks."""

    def configure(
        self,
        preparation: Preparation[ModelT, ProcessorT],
        accelerator: Accelerator,
        has_idle_parameters: bool,
    ):
        """Set up the model and what the loss needs, before the accelerator wraps the model.

        Args:
            preparation: of the run; its model is changed in place.
            accelerator: of the run.
            has_idle_parameters: whether some parameters get no gradient in the first updates.

        Raises:
            UserError: the model does not fit the arguments.
        """

    def embedders(
        self, preparation: Preparation[ModelT, ProcessorT], device: torch.device
    ) -> list[Embedder]:
        """What is frozen and embeds the training data once, before the first step.

        Args:
            preparation: of the run, after `configure`.
            device: to compute on.
        """
        return []

    def learning_towers(self) -> set[str]:
        """The towers, `vision` and `text`, whose inputs are needed in each step."""
        return {"vision"} - set(self.args.model.frozen_towers)

    @abstractmethod
    def backward(
        self,
        model: nn.Module,
        unwrapped: ModelT,
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

    @abstractmethod
    def encoder(self, model: ModelT, processor: ProcessorT) -> TorchEncoder | TorchClassifier:
        """A model as an evaluation takes it."""

    def after_update(self, unwrapped: ModelT):
        """Keep weights within their bounds after an update."""

    def describe_weights(self, unwrapped: ModelT) -> dict[str, float]:
        """Values of the weights to log."""
        return {}

    def write_extra_files(self, folder: Path):
        """Write the files of a finished model's folder other than model and processor."""

    def searches(
        self, preparation: Preparation[ModelT, ProcessorT]
    ) -> list[tuple[str, list[Found]]]:
        """Examples of what the model finds, to be drawn; empty where it searches nothing."""
        return []

    @abstractmethod
    def describe_batch(
        self, batch: dict, preparation: Preparation[ModelT, ProcessorT]
    ) -> list[str]:
        """What each image of a batch shows, for a preview."""

    @abstractmethod
    def image_size(self, model: ModelT) -> int:
        """Side of the images that the model was made for, in pixels."""

    def build_cards(self, facts: CardFacts, template: Path | None = None) -> dict[str, str]:
        """The model cards of a finished run by the names of their files, see `hub/model_card.py`.

        Raises:
            UserError: the template makes no valid card.
        """
        return build_model_cards(facts, template)


def describe_images(
    batch: dict, first: list[int], mixed_in: str, texts: Callable[[int], list[str]]
) -> list[str]:
    """What each image of a batch shows, and how much of each where it is mixed.

    Args:
        batch: with `mix_weight` if it is mixed.
        first: the class or id of each image.
        mixed_in: name in the batch of those that are mixed in.
        texts: the texts of a class or id.
    """
    if mixed_in not in batch:
        return [" / ".join(texts(one)) for one in first]
    mixed = zip(first, batch[mixed_in].tolist(), batch["mix_weight"].tolist(), strict=True)
    return [
        " / ".join(texts(one))
        if weight == 1 or one == other
        else describe_mixed(texts(one)[0], texts(other)[0], weight)
        for one, other, weight in mixed
    ]


def describe_mixed(first: str, second: str, weight: float, length: int = 22) -> str:
    """What a mixed image shows: the beginnings of two texts, with the weight of each."""
    parts = f"{weight:.2f} {shorten(first, length)}", f"{1 - weight:.2f} {shorten(second, length)}"
    return " + ".join(parts)
