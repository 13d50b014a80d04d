"""Pictures that a command goes through: opened, decoded a few at a time, embedded.

Shape legend: `N` pictures, `P` projection.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from PIL import Image

from ..data.captions import find_texts
from ..data.columns import check_columns, choose_image_column, column_kinds, find_caption_columns
from ..data.decoding import BadImageError, decode_image
from ..data.errors import DataError
from ..data.files.listing import is_local, list_files
from ..data.sources import open_dataset
from ..utils.resources import find_data
from .embedding import check_finite

#: Embeds images: (N, P).
Encode = Callable[[list[Image.Image]], torch.Tensor]


@dataclass
class Picture:
    """A picture of a gallery: where it is, and what to call it."""

    source: Any
    name: str

    def decode(self) -> Image.Image:
        """The picture in RGB.

        Raises:
            BadImageError: it cannot be decoded.
        """
        return decode_image(self.source)


def open_gallery(
    path: str, image_column: str | None = None, split: str | None = None
) -> Iterator[Picture]:
    """Pictures of a folder of image files with its sub-folders, of one file, or of a dataset.

    A folder is a dataset where it holds one (metadata, tables of pictures, tars, Parquet), by the
    same rule as for training; other images in the folder are then not searched.

    Raises:
        DataError: there is no such folder, split or column.
    """
    path = find_data(path)
    if is_local(path) and split is None and image_column is None:
        listing = list_files(path)
        listing.warn()
        if listing.kind == "pictures":
            for file in sorted(file for files in listing.files.values() for file in files):
                yield Picture(str(file), str(file.relative_to(listing.place)))
            return
    yield from dataset_pictures(path, image_column, split)


def dataset_pictures(path: str, image_column: str | None, split: str | None) -> Iterator[Picture]:
    """Pictures and names from every split of a dataset, or from one."""
    splits = open_dataset(path, image_column)
    if split is not None and split not in splits:
        raise DataError(f"{path!r} has no split {split!r}: it has {', '.join(sorted(splits))}")
    for split_name in [split] if split else list(splits):
        rows = splits[split_name]
        kinds = column_kinds(rows.features)
        column = image_column or choose_image_column(kinds, path)
        check_columns(rows.column_names, [column], path)
        captions = next(iter(find_caption_columns(kinds, column)), None)
        for row in range(len(rows)):
            columns = rows[row]
            texts = find_texts(columns[captions]) if captions else []
            yield Picture(columns[column], f"{texts[0] if texts else f'row {row}'} ({split_name})")


@dataclass
class Gallery:
    """Embedded pictures.

    Args:
        pictures: those that could be decoded.
        embeds: of each, (N, P).
        unreadable: names of the others, each with the reason.
    """

    pictures: list[Picture]
    embeds: torch.Tensor
    unreadable: list[str]


def embed_gallery(encode: Encode, pictures: Iterable[Picture], batch_size: int = 64) -> Gallery:
    """Embed pictures, which are decoded a few at a time and not kept.

    Args:
        encode: embeds images.
        pictures: what to embed.
        batch_size: pictures that are decoded at a time.

    Raises:
        DataError: not one of the pictures can be decoded.
    """
    readable: list[Picture] = []
    unreadable: list[str] = []
    embeds = []
    waiting = iter(pictures)
    while batch := list(islice(waiting, batch_size)):
        images = []
        for picture in batch:
            try:
                images.append(picture.decode())
                readable.append(picture)
            except BadImageError as error:
                unreadable.append(f"{picture.name} ({error})")
        if images:
            embeds.append(check_finite(encode(images), "pictures"))
    if not embeds:
        reason = f": {unreadable[0]}" if unreadable else ""
        raise DataError(f"there is no readable picture{reason}")
    return Gallery(readable, torch.cat(embeds), unreadable)
