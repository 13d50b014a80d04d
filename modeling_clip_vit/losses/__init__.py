"""Contrastive losses, one a file."""

from .clip_loss import ClipLoss
from .multi_positive_loss import MultiPositiveLoss
from .siglip_loss import SigLipLoss

__all__ = ["ClipLoss", "MultiPositiveLoss", "SigLipLoss"]
