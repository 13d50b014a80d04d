"""What fine-tuning adds to a run."""

from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import nn
from transformers import PreTrainedModel

from ...utils.errors import UserError
from ..arguments import TrainArguments
from ..tasks.task import Preparation, Task
from .adapters import Adapter
from .head_first import HeadFirst
from .l2_sp import StartPenalty
from .wise_ft import Interpolation


class Finetuning:
    """An adapter, a head that learns first, a pull to the start, and models on the way from it.

    Without any of these options, nothing here does anything.

    Args:
        args: of the run.
        task: of it.
        preparation: its model is as it was loaded, and gets the adapter in place.
        accelerator: of the run, before it wraps the model.

    Raises:
        UserError: the options do not fit the model or the strategy.
    """

    def __init__(
        self, args: TrainArguments, task: Task, preparation: Preparation, accelerator: Accelerator
    ):
        self.args, self.options = args, args.finetuning
        model, options = preparation.model, args.finetuning
        self.new_parts = tuple(preparation.new_parts)
        self.interpolation: Interpolation | None = None
        if accelerator.is_main_process and (options.wise_ft or options.wise_ft_alpha != 1):
            self.interpolation = Interpolation(model, self.new_parts)
        self.adapter: Adapter | None = None
        if args.adapter.is_on:
            self.adapter = Adapter(args.adapter, model)
            preparation.frozen += self.adapter.frozen(task.towers(model))
        self.penalty: StartPenalty | None = None
        if options.l2_sp_weight and accelerator.distributed_type == DistributedType.DEEPSPEED:
            raise UserError(
                f"l2_sp_weight={options.l2_sp_weight} is not allowed with DeepSpeed, which keeps "
                "the gradients to itself: use DDP or FSDP2"
            )
        self.head_first: HeadFirst | None = None
        if options.head_first_steps:
            towers = task.towers(model)
            self.head_first = HeadFirst(towers, options.head_first_steps, accelerator)

    def hold_start(self, model: nn.Module):
        """Remember the weights that the penalty pulls to.

        Args:
            model: as the accelerator prepared it, unwrapped, with the weights of the start.
        """
        if self.options.l2_sp_weight:
            held = (p for n, p in model.named_parameters() if not n.startswith(self.new_parts))
            self.penalty = StartPenalty(held, self.options.l2_sp_weight)

    def has_idle_parameters(self) -> bool:
        """Whether some parameters get no gradient in the first updates."""
        return self.head_first is not None

    def begin_step(self, done: int) -> bool:
        """Prepare an update; returns whether other modules learn than before."""
        return self.head_first is not None and self.head_first.begin_step(done)

    def set_training_mode(self):
        """Evaluation mode for what waits."""
        if self.head_first:
            self.head_first.set_training_mode()

    def before_update(self, scaler: Any, is_logged: bool) -> dict[str, float]:
        """Add to the gradients of an update.

        Args:
            scaler: of the loss in float16, or None.
            is_logged: whether the values of this update are logged.

        Returns:
            Values to log.
        """
        if self.penalty is None:
            return {}
        self.penalty.add_gradient(scaler.get_scale() if scaler else 1.0)
        return {"loss/l2_sp": self.penalty.value()} if is_logged else {}

    def extend(self, model: PreTrainedModel):
        """Give a new model the modules that the trained one has more than a plain one."""
        if self.adapter:
            self.adapter.extend(model)

    def merge(self, trained: PreTrainedModel) -> PreTrainedModel:
        """A model without adapter that computes the same as one with it, on the main process.

        Args:
            trained: with all of its weights.
        """
        return self.adapter.merge(trained) if self.adapter else trained

    def interpolate(self, model: PreTrainedModel) -> PreTrainedModel:
        """The same model, between start and end, as the options ask; at the end of the run."""
        if self.interpolation:
            self.interpolation.keep_end(model)
            self.interpolation.move(model, self.options.wise_ft_alpha)
        return model
