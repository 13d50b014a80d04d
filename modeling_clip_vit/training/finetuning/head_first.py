"""LP-FT: the head learns first, then everything."""

from collections.abc import Sequence

from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import nn

from ...utils.errors import UserError


class HeadFirst:
    """Keeps the towers as they are for the first updates (Kumar et al., 2022, section 3).

    A head that starts at random would otherwise pull the features of the towers out of shape before
    it has learned to read them.

    Args:
        towers: that wait. Weights of them that are frozen stay frozen.
        num_steps: number of updates that they wait for.
        accelerator: of the run, before it wraps the model.

    Raises:
        UserError: the strategy needs the gradient of every weight from the first update on.
    """

    def __init__(self, towers: Sequence[nn.Module], num_steps: int, accelerator: Accelerator):
        kind = accelerator.distributed_type
        if kind in (DistributedType.FSDP, DistributedType.DEEPSPEED):
            raise UserError(
                f"head_first_steps={num_steps} is not allowed with {kind.value}: use DDP"
            )
        # In the first updates, most weights get no gradient.
        accelerator.ddp_handler = DistributedDataParallelKwargs(find_unused_parameters=True)
        self.towers, self.num_steps = towers, num_steps
        self.waiting = [one for tower in towers for one in tower.parameters() if one.requires_grad]
        self.is_waiting = False

    def begin_step(self, done: int) -> bool:
        """Freeze the towers, or let them learn.

        Args:
            done: number of updates before this one.

        Returns:
            Whether that has changed.
        """
        is_waiting = done < self.num_steps
        if is_waiting == self.is_waiting:
            return False
        self.is_waiting = is_waiting
        for parameter in self.waiting:
            parameter.requires_grad = not is_waiting
        return True

    def set_training_mode(self):
        """Towers that wait are in evaluation mode: no dropout, and constant running statistics."""
        if self.is_waiting:
            for tower in self.towers:
                tower.eval()
