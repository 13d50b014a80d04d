"""The pixels of decoded images.

Shape legend: `N` images, `S` side in pixels.
"""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from os import cpu_count
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from torch.nn.functional import interpolate

from .decoding import BadImageError, decode_any, decode_image
from .errors import DataError
from .rows import BadSamples


def decode_pixels(source: Any, least_side: int = 0, least_area: int = 0) -> torch.Tensor:
    """The pixels of a decoded image, uint8 (3, height, width); otherwise as `decode_image`."""
    return to_tensor(decode_any(source, least_side, least_area))


def to_tensor(image: Image.Image | np.ndarray) -> torch.Tensor:
    """The pixels of an image of any size: uint8, (3, height, width)."""
    pixels = image if isinstance(image, np.ndarray) else np.array(image)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_pixels(image: Image.Image | torch.Tensor, size: int) -> torch.Tensor:
    """Resize the shorter side to `size` and cut out the centre: uint8, (3, S, S)."""
    pixels = image if isinstance(image, torch.Tensor) else to_tensor(image)
    height, width = pixels.shape[1:]
    side = min(height, width)
    return resize_part(pixels, ((height - side) // 2, (width - side) // 2, side, side), size)


def resize_part(
    pixels: torch.Tensor, part: tuple[int, int, int, int], size: int | tuple[int, int]
) -> torch.Tensor:
    """Cut out a part and resize it: uint8, (3, height, width).

    torch's kernel for uint8 takes a quarter of Pillow's time, and its values are those of
    Transformers' image processors.

    Args:
        pixels: of an image.
        part: top, left, height and width.
        size: side S of what is wanted, or its height and width.
    """
    size = (size, size) if isinstance(size, int) else size
    top, left, height, width = part
    pixels = pixels[:, top : top + height, left : left + width]
    if (height, width) == size:
        return pixels
    # The fast kernel takes pixels whose channels lie together, as Pillow has them.
    packed = pixels[None].contiguous(memory_format=torch.channels_last)
    return interpolate(packed, size, mode="bicubic", antialias=True).squeeze(0)


def decode_all(
    split: Dataset,
    column: str,
    size: int,
    path: str,
    bad: BadSamples,
    problems: Mapping[int, str],
) -> tuple[torch.Tensor, list[int]]:
    """Decode every image of a split once, to a square.

    Args:
        split: the rows; images still encoded.
        column: the column of images.
        size: side S of the pixels wanted.
        path: name of the dataset in messages.
        bad: the rows that cannot be used are added to it.
        problems: row -> what else is wrong with it.

    Returns:
        Pixels, uint8 (N, 3, S, S), and the row number of each.

    Raises:
        DataError: more rows are bad than `bad` allows, or all are.
    """
    rows: list[int] = []
    # Filled in place: a list and its stack would take the memory twice.
    pixels = torch.empty(len(split), 3, size, size, dtype=torch.uint8)
    resize = partial(to_pixels, size=size)
    for row, decoded in decoded_rows(split, column, resize, path, bad, problems):
        pixels[len(rows)] = decoded
        rows.append(row)
    return pixels[: len(rows)], rows


def decode_each(
    split: Dataset,
    column: str,
    resize: Callable[[Image.Image], torch.Tensor],
    path: str,
    bad: BadSamples,
    problems: Mapping[int, str],
) -> tuple[list[torch.Tensor], list[int]]:
    """Decode every image of a split once, each to a size of its own.

    Arguments and errors are those of `decode_all`, but for `resize`, which makes the pixels of an
    image, uint8 (3, height, width).

    Returns:
        The pixels of each image, and the row number of each.
    """
    found = list(decoded_rows(split, column, resize, path, bad, problems))
    return [pixels for _, pixels in found], [row for row, _ in found]


def decoded_rows(
    split: Dataset,
    column: str,
    resize: Callable[[Image.Image], torch.Tensor],
    path: str,
    bad: BadSamples,
    problems: Mapping[int, str],
) -> Iterator[tuple[int, torch.Tensor]]:
    """The rows of a split that can be used, with their pixels; arguments as for `decode_each`."""
    images = split[column]

    def decode_row(row: int) -> torch.Tensor | BadImageError:
        if row in problems:
            return BadImageError(problems[row])
        try:
            return resize(decode_image(images[row]))
        except BadImageError as error:
            return error

    bad.seen += len(split)
    count = 0
    with ThreadPoolExecutor(cpu_count()) as pool:
        for row, decoded in enumerate(pool.map(decode_row, range(len(split)))):
            if isinstance(decoded, BadImageError):
                bad.add(image_name(images[row], row), str(decoded))
            else:
                count += 1
                yield row, decoded
    bad.check(path)
    if not count:
        raise DataError(f"no row of {path!r} can be used; the first: {bad.examples[0]}")


def image_name(source: Any, row: int) -> str:
    """What to call an image in a message: its path if it has one, and its row."""
    path = source.get("path") if isinstance(source, dict) else None
    return f"row {row}, {path}" if path else f"row {row}"
