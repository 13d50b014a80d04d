"""Make pixels of pictures as an image processor of Transformers does, with Pillow and numpy.

Shape legend: `N` images, `S` side of a square in pixels, `Y` and `X` rows and columns of pixels,
`L` patches, `D` numbers of a patch.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..data.grids import fit_size
from ..utils.errors import UserError

PROCESSOR_FILE = "processor_config.json"


class Preparation(ABC):
    """Makes a model's inputs of images.

    Attributes:
        factor, shift: make a model's numbers of bytes, `factor * pixels + shift`, in the layout of
            `pixel_values`.
    """

    factor: np.ndarray
    shift: np.ndarray

    @property
    @abstractmethod
    def least_side(self) -> int:
        """How small the shorter side of an image may be decoded without a visible loss."""

    @abstractmethod
    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resize an RGB image: uint8 (Y, X, 3)."""

    @abstractmethod
    def collect(self, pixels: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of the model for resized images; `pixel_values` are still bytes."""

    def normalize(self, pixels: np.ndarray) -> np.ndarray:
        """`pixel_values` as a model takes them: bytes to float32."""
        values = pixels.astype(np.float32, order="C")
        values *= self.factor
        values += self.shift
        return values


def read_preparation(folder: Path) -> Preparation:
    """The preparation of an export or a checkpoint.

    Raises:
        UserError: the folder does not say how images are prepared, or in an unknown way.
    """
    for name in (PROCESSOR_FILE, "preprocessor_config.json"):
        if (folder / name).is_file():
            fields = json.loads((folder / name).read_text(encoding="utf-8"))
            fields = fields.get("image_processor", fields)
            is_native = "max_num_patches" in fields
            return NativePreparation(fields) if is_native else SquarePreparation(fields)
    raise UserError(f"{str(folder)!r} has no {PROCESSOR_FILE}: how are images prepared?")


def read_normalization(fields: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """What bytes are multiplied with and what is added, for each channel: float32 (3,).

    Args:
        fields: of the image processor, as Transformers saves them.
    """
    scale = fields.get("rescale_factor", 1 / 255) if fields.get("do_rescale", True) else 1.0
    mean, std = np.zeros(3, np.float32), np.ones(3, np.float32)
    if fields.get("do_normalize", True):
        mean = np.array(fields["image_mean"], np.float32)
        std = np.array(fields["image_std"], np.float32)
    return (scale / std).astype(np.float32), -mean / std


class SquarePreparation(Preparation):
    """Makes pixels of images as CLIP's image processor does, with Pillow and numpy.

    Args:
        fields: of the image processor, as Transformers saves them.

    Raises:
        UserError: the processor does what is not done here.
    """

    def __init__(self, fields: dict[str, Any]):
        size: dict[str, int] = fields.get("size") or {}
        crop: dict[str, int] = fields.get("crop_size") or {}
        self.shortest: int | None = size.get("shortest_edge")
        self.crops = bool(fields.get("do_center_crop"))
        target = crop if self.crops else size
        self.side: int = target.get("height") or 0
        self.resized = None if self.shortest else (size.get("width", 0), size.get("height", 0))
        self.resample = Image.Resampling(int(fields.get("resample", Image.Resampling.BICUBIC)))
        is_known = self.side and target.get("width") == self.side
        if not is_known or fields.get("do_pad") or not fields.get("do_resize", True):
            raise UserError(
                "the model prepares images in a way that an index does not know: it must resize "
                "them, and cut a square from the middle or take them as squares"
            )
        self.factor, self.shift = (one.reshape(3, 1, 1) for one in read_normalization(fields))

    @property
    def least_side(self) -> int:
        """How small the shorter side of an image may be decoded without a visible loss."""
        return 2 * (self.shortest or self.side)

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resize an RGB image and cut a square from its middle: uint8 (S, S, 3)."""
        width, height = self.resized_size(image)
        if not self.crops or (width, height) == (self.side, self.side):
            return np.asarray(image.resize((width, height), self.resample))
        left, top = int((width - self.side) / 2), int((height - self.side) / 2)
        if min(left, top) < 0:  # smaller than what is cut out: black around it
            resized = image.resize((width, height), self.resample)
            left, top = -((self.side - width) // 2), -((self.side - height) // 2)
            return np.asarray(resized.crop((left, top, left + self.side, top + self.side)))
        # What is cut away need not be resized; Pillow still reads the pixels around the box.
        across, down = image.width / width, image.height / height
        box = (left * across, top * down, (left + self.side) * across, (top + self.side) * down)
        box = (*box[:2], min(box[2], image.width), min(box[3], image.height))
        return np.asarray(image.resize((self.side, self.side), self.resample, box=box))

    def resized_size(self, image: Image.Image) -> tuple[int, int]:
        """Width and height that an image is resized to, rounded as Transformers does."""
        if self.resized is not None:
            return self.resized
        side = int(self.shortest or self.side)
        if image.width <= image.height:
            return side, max(1, int(side * image.height / image.width))
        return max(1, int(side * image.width / image.height)), side

    def collect(self, pixels: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of the model for images, each uint8 (S, S, 3), before `normalize`."""
        return {"pixel_values": np.stack(pixels).transpose(0, 3, 1, 2)}


class NativePreparation(Preparation):
    """Makes patches of images in their own aspect ratio, as SigLIP 2's image processor does.

    Args:
        fields: of the image processor, as Transformers saves them.

    Raises:
        UserError: the processor does what is not done here.
    """

    def __init__(self, fields: dict[str, Any]):
        self.patch_size, self.max_patches = fields["patch_size"], fields["max_num_patches"]
        self.resample = Image.Resampling(int(fields.get("resample", Image.Resampling.BILINEAR)))
        if not fields.get("do_resize", True):
            raise UserError(
                "the model prepares images in a way that an index does not know: it must resize "
                "them to a grid of patches"
            )
        # A patch has its pixels row by row, channels last.
        self.factor, self.shift = (
            np.tile(one, self.patch_size**2) for one in read_normalization(fields)
        )

    @property
    def least_side(self) -> int:
        """How small the shorter side of an image may be decoded without a visible loss."""
        return 2 * math.ceil(self.max_patches**0.5) * self.patch_size

    def __call__(self, image: Image.Image) -> np.ndarray:
        """Resize an RGB image to whole patches: uint8 (Y, X, 3)."""
        height, width = fit_size(image.height, image.width, self.patch_size, self.max_patches)
        return np.asarray(image.resize((width, height), self.resample))

    def collect(self, pixels: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
        """The inputs of the model for images, padded to the one with the most patches.

        Args:
            pixels: each uint8 (Y, X, 3).

        Returns:
            `pixel_values` (N, L, D) before `normalize`, `pixel_attention_mask` (N, L) and
            `spatial_shapes` (N, 2).
        """
        size = self.patch_size
        shapes_N2 = np.array([image.shape[:2] for image in pixels], np.int64) // size
        counts_N = shapes_N2.prod(axis=1)
        patches_NLD = np.zeros((len(pixels), counts_N.max(), 3 * size**2), np.uint8)
        for row, (image, (rows, columns)) in enumerate(zip(pixels, shapes_N2, strict=True)):
            grid = image.reshape(rows, size, columns, size, 3).swapaxes(1, 2)
            patches_NLD[row, : rows * columns] = grid.reshape(rows * columns, -1)
        mask_NL = np.arange(patches_NLD.shape[1]) < counts_N[:, None]
        return {
            "pixel_values": patches_NLD,
            "pixel_attention_mask": mask_NL.astype(np.int64),
            "spatial_shapes": shapes_N2,
        }
