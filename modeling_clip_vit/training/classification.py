"""Train a ViT with a class head on labelled images, by the same loop.

Shape legend: `B` images, `C` classes.
"""

from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

from ..data.mixing import mix_class_targets
from .class_head import prepare_classification
from .loop import ContrastiveTraining
from .preparation import Preparation
from .restart import Restart


class ClassificationTraining(ContrastiveTraining):
    """A run like any other, but for what is prepared, minimised and logged."""

    def prepare(self, restart: Restart) -> Preparation:
        """Open the data, and build or load the model; classes as a restart has them."""
        return prepare_classification(self.args, restart)

    def prepare_model(self, model: Any) -> Any:
        """Set up what trains a model of this size here: recomputing, compiling."""
        self.prepare_blocks(model, [model.vision_model])
        return model

    def build_objective(self) -> "ClassificationObjective":
        """What is minimised."""
        return ClassificationObjective(self.args.loss.label_smoothing)

    def backward(self, batch: dict) -> dict[str, Any]:
        """The gradients of a batch; returns the loss and what else is logged of it."""
        logits = self.model(pixel_values=batch["pixel_values"]).logits
        loss, values = self.objective(batch, logits)
        self.accelerator.backward(loss)
        return {"loss": loss.detach(), **values}

    def bound_weights(self):
        """No weight of a classifier has a bound."""

    def describe_weights(self) -> dict[str, float]:
        """No weight of a classifier is logged."""
        return {}


class ClassificationObjective:
    """Cross entropy, with labels or with weights of classes.

    Args:
        label_smoothing: share of each target that is spread evenly over all classes (Szegedy et
            al., 2016, section 7).
    """

    def __init__(self, label_smoothing: float = 0.0):
        self.label_smoothing = label_smoothing

    def __call__(
        self, batch: dict, logits_BC: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss, and what else to log.

        Args:
            batch: this process's: `labels` (B,), and where images are mixed the `mixed_labels` of
                those mixed in and the `mix_weight` of the first, (B,).
            logits_BC: the model's, in any precision.
        """
        right = targets = batch["labels"]
        if "mixed_labels" in batch:
            mixed, weight = batch["mixed_labels"], batch["mix_weight"]
            targets = mix_class_targets(right, mixed, weight, logits_BC.shape[1])
            right = targets.argmax(dim=1)
        # Softmax and loss in float32 also in a half-precision model.
        logits_BC = logits_BC.float()
        loss = F.cross_entropy(logits_BC, targets, label_smoothing=self.label_smoothing)
        accuracy = (logits_BC.argmax(dim=1) == right).float().mean()
        return loss, {"accuracy": accuracy}
