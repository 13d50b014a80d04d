"""Contrastive losses, one a file: exact on any number of processes, and linear in memory."""

from .clip_loss import ClipLoss
from .contrastive_loss import ContrastiveLoss
from .distillation_loss import DistillationLoss
from .hard_negative_loss import HardNegativeLoss
from .matryoshka_loss import MatryoshkaLoss
from .multi_positive_loss import MultiPositiveLoss
from .siglip_loss import SigLipLoss
from .targets import MixedIds

#: The losses of a recipe, by name. Each says itself what it takes, see `ContrastiveLoss`.
LOSSES: dict[str, type[ContrastiveLoss]] = {
    "clip": ClipLoss,
    "multi_positive": MultiPositiveLoss,
    "siglip": SigLipLoss,
    "hard_negative": HardNegativeLoss,
}

__all__ = [
    "LOSSES",
    "ClipLoss",
    "ContrastiveLoss",
    "DistillationLoss",
    "HardNegativeLoss",
    "MatryoshkaLoss",
    "MixedIds",
    "MultiPositiveLoss",
    "SigLipLoss",
]
