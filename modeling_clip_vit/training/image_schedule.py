"""Fewer patches in the first part of a run: of smaller images, or with some of them dropped.

Shape legend: `B` images, `S` side in pixels.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from ..configuration_clip_vit import is_foreign
from ..utils.errors import UserError
from .arguments import TrainArguments


class ImageSchedule:
    """What the image tower gets of each image, by how far a run is.

    Both options leave the weights, their shapes and the configuration as they are: images are
    resized on the device, after augmentation and mixing, and learned positions are interpolated
    within the forward pass, as for any image of another size. Evaluation and a teacher see whole
    images of the model's size.

    Args:
        args: of the run.
        tower: the image tower, before the accelerator wraps it.

    Raises:
        UserError: the tower does not take what the options ask for.
    """

    def __init__(self, args: TrainArguments, tower: Any):
        self.options = args.schedule
        self.handle: RemovableHandle | None = None
        if self.options.small_image_size is not None:
            check_small_images(self.options.small_image_size, args, tower.config)
        self.dropout = getattr(tower.config, "patch_dropout", 0)
        if self.options.patch_dropout_until < 1 and not self.dropout:
            raise UserError(
                f"patch_dropout_until={self.options.patch_dropout_until} is not allowed without "
                "patch dropout: set it in vision_fields, such as {patch_dropout: 0.5}"
            )

    def begin_step(self, tower: Any, progress: float) -> bool:
        """Prepare an update; returns whether images have another number of patches than before.

        Args:
            tower: the image tower.
            progress: share of the run's updates that are done.
        """
        options, has_changed = self.options, False
        if options.patch_dropout_until < 1:
            rate = self.dropout if progress < options.patch_dropout_until else 0.0
            has_changed = tower.embeddings.patch_dropout != rate
            tower.embeddings.patch_dropout = rate
        size = options.small_image_size if progress < options.small_images_until else None
        if size is not None and self.handle is None:
            hook = partial(shrink, size=size)
            self.handle = tower.embeddings.register_forward_pre_hook(hook)
            return True
        if size is None and self.handle is not None:
            self.handle.remove()
            self.handle = None
            return True
        return has_changed


def shrink(module: nn.Module, inputs: tuple, size: int) -> tuple:
    """A hook before the embeddings: images of a smaller size, in training alone."""
    if not module.training:
        return inputs
    pixels, _, *others = inputs
    return resize(pixels, size), True, *others


def resize(pixels: torch.Tensor, size: int) -> torch.Tensor:
    """Normalised pixels (B, 3, S, S) at another size, each the mean of those that it covers."""
    return nn.functional.interpolate(
        pixels, (size, size), mode="bilinear", align_corners=False, antialias=True
    )


def check_small_images(size: int, args: TrainArguments, config: Any):
    """Reject a size that the image tower does not take.

    Args:
        size: side of the smaller images in pixels.
        args: of the run.
        config: of the tower.

    Raises:
        UserError: with the field that is in the way.
    """
    refused = f"small_image_size={size} is not allowed"
    if is_foreign(config):
        raise UserError(f"{refused}: the image tower is of type {config.model_type!r}, not ours")
    if config.pooling == "flatten":
        raise UserError(
            f"{refused} with pooling='flatten', which fixes the number of patches: use another"
        )
    if size % config.patch_size or not 0 < size < config.image_size:
        raise UserError(
            f"{refused}: it must be a multiple of patch_size={config.patch_size} below "
            f"image_size={config.image_size}"
        )
    if args.model.frozen_vision_layers or "vision" in args.model.frozen_towers:
        raise UserError(
            f"{refused} with frozen_towers=[vision] or frozen_vision_layers: frozen embeddings "
            "see images as in evaluation"
        )
    if args.quantization.quantization_mode == "static":
        raise UserError(
            f"{refused} with quantization_mode='static', which is calibrated at one size"
        )
