"""Options of quantisation-aware training."""

from dataclasses import dataclass, field
from typing import Literal

from ..utils.errors import UserError

#: Layers that stay float unless a recipe says otherwise: the first and the last. They are a small
#: share of the work, and later layers cannot make up for their rounding errors.
DEFAULT_SKIP = ("*.patch_embedding*", "visual_projection*", "text_projection*", "classifier*")


@dataclass
class QuantizationOptions:
    """Quantisation-aware training: round in the forward pass (Jacob et al., 2018).

    Args:
        quantization_mode: `none`; `dynamic` for int8 weights and activations scaled per token;
            `weight_only` for int8 weights; `static` for int8 weights and activations with fixed,
            learned ranges, exported to OpenVINO.
        quantization_weight_bits: bits per weight: 8, 4, 3 or 2; fewer than 8 need `dynamic` or
            `weight_only`.
        quantization_embeddings: quantise the token embeddings too; `static` always does.
        quantization_skip: layers to keep in float, by name or pattern, such as
            `text_model.encoder.layers.0.*`.
        quantization_smoothing: before training, move outliers of the activations into the weights
            (SmoothQuant: Xiao et al., 2023), from 0 for none to 1; the paper uses 0.5.
        quantization_start_step: number of updates in float before rounding starts.
        quantization_freeze_step: update after which activation ranges stop learning, for `static`;
            0 never freezes them.
        quantization_calibration_batches: number of batches to estimate ranges and outliers from.
    """

    quantization_mode: Literal["none", "dynamic", "weight_only", "static"] = "none"
    quantization_weight_bits: Literal[8, 4, 3, 2] = 8
    quantization_embeddings: bool = False
    quantization_skip: list[str] = field(default_factory=lambda: list(DEFAULT_SKIP))
    quantization_smoothing: float = 0.0
    quantization_start_step: int = 0
    quantization_freeze_step: int = 0
    quantization_calibration_batches: int = 4

    def __post_init__(self):
        start, freeze = self.quantization_start_step, self.quantization_freeze_step
        if start < 0:
            raise UserError(
                f"quantization_start_step={start} is not allowed: it must be at least 0"
            )
        if not 0 <= self.quantization_smoothing <= 1:
            raise UserError(
                f"quantization_smoothing={self.quantization_smoothing} is not allowed: from 0 to 1"
            )
        if freeze and freeze < start:
            raise UserError(
                f"quantization_freeze_step={freeze} is not allowed: it must be 0, or not before "
                f"quantization_start_step={start}"
            )
        if freeze and self.quantization_mode != "static":
            raise UserError(
                f"quantization_freeze_step={freeze} is not allowed with "
                f"quantization_mode={self.quantization_mode!r}: only static ranges learn"
            )
        if self.quantization_weight_bits < 8 and self.quantization_mode == "static":
            raise UserError(
                f"quantization_weight_bits={self.quantization_weight_bits} is not allowed with "
                "quantization_mode='static': use 8"
            )
        if self.quantization_calibration_batches < 1:
            raise UserError(
                f"quantization_calibration_batches={self.quantization_calibration_batches} is not "
                "allowed: it must be at least 1"
            )

    def check_steps(self, max_steps: int):
        """Reject a start or freeze step that the run never reaches.

        Raises:
            UserError: a step is not below the number of updates.
        """
        if self.quantization_mode == "none":
            return
        for name in ("quantization_start_step", "quantization_freeze_step"):
            if getattr(self, name) >= max_steps:
                raise UserError(
                    f"{name}={getattr(self, name)} is not allowed: the run has {max_steps} updates"
                )
