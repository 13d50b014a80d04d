"""Skip updates that would spoil the weights, and stop a run with too many of them in a row."""

import logging
import math

from ..utils.errors import UserError

logger = logging.getLogger(__name__)


class TrainingError(UserError):
    """A run that cannot go on; the message is one clear sentence."""


class UpdateGuard:
    """Checks the loss and the gradient before each update.

    Args:
        max_spike: skip gradients whose norm exceeds this multiple of its running mean; 0 disables.
        max_skipped: stop after this many skipped updates in a row.
    """

    #: Decay rate of the running mean of the gradient norms.
    memory = 0.98
    #: Updates before spikes are detected: gradients are large at the start of training.
    settling = 20

    def __init__(self, max_spike: float, max_skipped: int):
        self.max_spike, self.max_skipped = max_spike, max_skipped
        self.mean_norm, self.seen = 0.0, 0
        self.skipped, self.skipped_in_a_row = 0, 0

    def accepts(self, step: int, loss: float, norm: float) -> bool:
        """Whether to make this update.

        Args:
            step: number of the update, for messages.
            loss, norm: the loss and the norm of its gradient, the same on all processes.

        Raises:
            TrainingError: too many updates in a row were skipped.
        """
        reason = self.find_reason(loss, norm)
        if reason is None:
            self.seen += 1
            memory = min(self.memory, 1 - 1 / self.seen)
            self.mean_norm = memory * self.mean_norm + (1 - memory) * norm
            self.skipped_in_a_row = 0
            return True
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row >= self.max_skipped:
            raise TrainingError(
                f"stopped at update {step}: {reason}, and the last {self.skipped_in_a_row} updates "
                "were skipped; lower learning_rate, or check the data, and continue with "
                "--resume_from_checkpoint latest"
            )
        logger.warning(
            "update %d is skipped: %s (%d in a row; %d end the run)",
            step,
            reason,
            self.skipped_in_a_row,
            self.max_skipped,
        )
        return False

    def find_reason(self, loss: float, norm: float) -> str | None:
        """Why an update should be skipped, or None."""
        if not math.isfinite(loss):
            return f"the loss is {loss}"
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        limit = self.max_spike * self.mean_norm
        if self.max_spike and self.seen >= self.settling and norm > limit:
            return f"the gradient norm is {norm:.3g}, and its running mean {self.mean_norm:.3g}"
        return None

    def state_dict(self) -> dict[str, float]:
        """The state that a resumed run continues from."""
        names = ("mean_norm", "seen", "skipped", "skipped_in_a_row")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, float]):
        """Continue from a saved state."""
        vars(self).update(state)
