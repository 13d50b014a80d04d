"""Skip updates that would spoil the weights, and stop a run with too many of them in a row."""

import logging
import math

import torch

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
        self.note(step, norm, reason)
        return reason is None

    def note(self, step: int, norm: float, reason: str | None):
        """Count an update that was made, or one that is skipped for a reason.

        Raises:
            TrainingError: too many updates in a row were skipped.
        """
        if reason is None:
            self.seen += 1
            memory = min(self.memory, 1 - 1 / self.seen)
            self.mean_norm = memory * self.mean_norm + (1 - memory) * norm
            self.skipped_in_a_row = 0
            return
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


class DeviceGuard:
    """Decides as `UpdateGuard` does, but on the device, so that no update waits for it.

    torch's fused optimisers skip what it refuses. Counting, naming and stopping is left to the
    guard on the CPU, which learns in `settle` what was decided: an update that is skipped has
    changed nothing until then.

    Args:
        guard: on the CPU, whose state it goes on from.
        device: that trains; it must have float64, so that both decide alike.
    """

    def __init__(self, guard: UpdateGuard, device: torch.device):
        self.guard = guard
        state = torch.tensor([guard.mean_norm, guard.seen], dtype=torch.float64)
        self.mean_norm, self.seen = state.to(device)
        self.pending: list[tuple[int, torch.Tensor]] = []

    @torch.no_grad()
    def refuses(self, step: int, loss: torch.Tensor, norm: torch.Tensor) -> torch.Tensor:
        """Whether to skip an update: 1 or 0 as float32, as optimisers take it for `found_inf`.

        Args:
            step: number of the update.
            loss, norm: the loss and the norm of its gradient, scalars on the device.
        """
        guard, loss, norm = self.guard, loss.double(), norm.double()
        is_refused = ~torch.isfinite(loss + norm)
        if guard.max_spike:
            is_spike = norm > guard.max_spike * self.mean_norm
            is_refused |= is_spike & (self.seen >= guard.settling)
        self.seen = self.seen + ~is_refused
        memory = (1 - 1 / self.seen.clamp(min=1)).clamp(max=guard.memory)
        mean_norm = memory * self.mean_norm + (1 - memory) * norm
        self.mean_norm = torch.where(is_refused, self.mean_norm, mean_norm)
        self.pending.append((step, torch.stack((loss, norm, is_refused.double()))))
        return is_refused.float()

    def settle(self):
        """Tell the guard what was decided since the last call, in one copy from the device.

        Raises:
            TrainingError: too many updates in a row were skipped.
        """
        if not self.pending:
            return
        steps, values = zip(*self.pending, strict=True)
        self.pending = []
        for step, (loss, norm, is_refused) in zip(steps, torch.stack(values).tolist(), strict=True):
            reason = self.guard.find_reason(loss, norm) if is_refused else None
            if is_refused and reason is None:  # at the very limit, rounded otherwise
                reason = f"the gradient norm is {norm:.3g}"
            self.guard.note(step, norm, reason)
