"""How a run's images come to the model: as squares, or in their own aspect ratio."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from transformers import PreTrainedModel

from ..configuration_clip_vit import is_foreign
from ..data.native import NativeAugment
from ..data.policies import SampleAugment
from ..embeddings import PatchEmbedding
from ..evaluation.images import ImagesInMemory, NativeImagesInMemory, OpenImages
from ..utils.errors import UserError
from .arguments import TrainArguments
from .models import build_native_processor


@dataclass(frozen=True)
class ImageForm:
    """How images come to the model.

    Args:
        augment: cuts an image to size and varies it.
        open_images: decodes the images of a split that is evaluated.
        image_processor: makes images of that form, for the checkpoint.
        sizes: most patches of an image -> images of a batch; None for squares.
    """

    augment: SampleAugment
    open_images: OpenImages
    image_processor: Any
    sizes: Mapping[int, int] | None = None


def choose_form(args: TrainArguments, tower: PreTrainedModel, image_processor: Any) -> ImageForm:
    """The form of images that a recipe asks for.

    Args:
        args: of the run.
        tower: its image tower.
        image_processor: of the checkpoint that the run begins with, or a new one for squares.

    Raises:
        UserError: the tower or the image processor does not take it.
    """
    native = args.native
    config: Any = tower.config
    if not native.is_on:
        if hasattr(image_processor, "max_num_patches"):
            raise UserError(
                f"{args.model.model_name_or_path} was trained on images in their own aspect ratio: "
                "set image_seq_lens, such as [256]"
            )
        size = config.image_size
        open_images = partial(ImagesInMemory, size=size)
        return ImageForm(SampleAugment(args.augment, size), open_images, image_processor)
    check_takes_patches(tower, "the image tower")
    return ImageForm(
        NativeAugment(args.augment, config.patch_size, native.longest),
        partial(NativeImagesInMemory, patch_size=config.patch_size, max_patches=native.longest),
        build_native_processor(image_processor, config.patch_size, native.longest),
        native.batch_sizes(
            args.optimizer.per_device_train_batch_size, args.data.images_per_concept
        ),
    )


def check_takes_patches(tower: PreTrainedModel, name: str, patch_size: int | None = None):
    """Reject an image tower that takes whole images of one size only.

    Args:
        tower: of any type.
        name: what to call it in the message.
        patch_size: that its patches must have; None for any.

    Raises:
        UserError: with the field that is in the way.
    """
    config: Any = tower.config
    reason = None
    if is_foreign(config):
        reason = f"is of type {config.model_type!r}, not one of ours"
    elif config.pooling == "flatten":
        reason = "has pooling='flatten', which fixes the number of patches"
    elif not cuts_patches(tower):
        reason = f"has patch_embedding={config.patch_embedding!r}, which looks across patches"
    elif patch_size not in (None, config.patch_size):
        reason = f"has patch_size={config.patch_size}, and the batches have {patch_size}"
    if reason:
        raise UserError(f"image_seq_lens is not allowed with this model: {name} {reason}")


def cuts_patches(tower: Any) -> bool:
    """Whether one of our image towers embeds single patches."""
    embed_patches = type(tower.embeddings.patch_embedding).embed_patches
    return embed_patches is not PatchEmbedding.embed_patches
