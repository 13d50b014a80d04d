"""Search pictures by text."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from ..data.columns import check_columns, choose_image_column, column_kinds, find_caption_columns
from ..data.errors import DataError
from ..data.images import BadImageError, decode_image
from ..data.sources import open_dataset
from .loading import Encoder

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff"}


@dataclass
class Picture:
    """A picture of a gallery, and what to call it."""

    image: Image.Image
    name: str


@dataclass
class Gallery:
    """Pictures to search, and the names of those that could not be decoded."""

    pictures: list[Picture]
    unreadable: list[str]


def open_gallery(path: str, image_column: str | None = None, split: str | None = None) -> Gallery:
    """Pictures of a folder of image files, with its sub-folders, or of a data set.

    Raises:
        DataError: there is no such folder, split or column, or not one readable picture.
    """
    folder = Path(path).expanduser()
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if files and split is None:
        sources: Iterable = ((str(file), str(file.relative_to(folder))) for file in files)
    else:
        sources = dataset_images(path, image_column, split)
    gallery = Gallery([], [])
    for source, name in sources:
        try:
            gallery.pictures.append(Picture(decode_image(source), name))
        except BadImageError as error:
            gallery.unreadable.append(f"{name} ({error})")
    if not gallery.pictures:
        raise DataError(f"no readable picture in {path!r}: {', '.join(gallery.unreadable[:1])}")
    return gallery


def dataset_images(path: str, image_column: str | None, split: str | None):
    """Encoded images and names from every split of a data set, or from one."""
    splits = open_dataset(path, image_column)
    if split is not None and split not in splits:
        raise DataError(f"{path!r} has no split {split!r}: it has {', '.join(sorted(splits))}")
    for split_name in [split] if split else list(splits):
        rows = splits[split_name]
        kinds = column_kinds(rows.features)
        column = image_column or choose_image_column(kinds, path)
        check_columns(rows, [column], path)
        captions = next(iter(find_caption_columns(kinds, column)), None)
        for row, source in enumerate(rows[column]):
            title = rows[row][captions] if captions else f"row {row}"
            yield source, f"{title} ({split_name})"


class ImageSearch:
    """An index over pictures: embeds them once, and answers texts.

    Args:
        encoder: embeds images and texts.
        pictures: what to search.
    """

    def __init__(self, encoder: Encoder, pictures: list[Picture]):
        self.encoder = encoder
        self.pictures = pictures
        self.embeds = encoder.encode_image([picture.image for picture in pictures])

    def __call__(self, query: str, top_k: int = 5) -> list[tuple[Picture, float]]:
        """The best pictures for a text, best first, each with its cosine similarity.

        Raises:
            ValueError: the query is empty.
        """
        if not query.strip():
            raise ValueError("the query is empty: say what to look for")
        text_embeds = self.encoder.encode_text([query])
        scores, places = torch.topk(
            (self.embeds @ text_embeds.t()).squeeze(1), min(top_k, len(self.pictures))
        )
        return [
            (self.pictures[place], score)
            for place, score in zip(places.tolist(), scores.tolist(), strict=True)
        ]
