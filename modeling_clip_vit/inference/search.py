"""Search pictures by text."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from PIL import Image

from ..data.captions import find_texts
from ..data.columns import check_columns, choose_image_column, column_kinds, find_caption_columns
from ..data.errors import DataError
from ..data.files.listing import is_local, list_files
from ..data.images import BadImageError, decode_image
from ..data.sources import open_dataset
from ..utils.errors import UserError
from ..utils.resources import find_data
from .embedding import check_finite
from .loading import Encoder


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


def check_query(query: str):
    """Reject a query without a word.

    Raises:
        UserError: there is none.
    """
    if not query.strip():
        raise UserError("the query is empty: say what to look for")


class ImageSearch:
    """An index over pictures: embeds them once, and answers texts.

    Pictures are decoded a few at a time and not kept.

    Args:
        encoder: embeds images and texts.
        pictures: what to search.
        batch_size: pictures that are decoded at a time.

    Raises:
        DataError: none of the pictures can be decoded.
    """

    def __init__(self, encoder: Encoder, pictures: Iterable[Picture], batch_size: int = 64):
        self.encoder = encoder
        self.pictures: list[Picture] = []
        #: Names of those that could not be decoded, each with the reason.
        self.unreadable: list[str] = []
        embeds = []
        waiting = iter(pictures)
        while batch := list(islice(waiting, batch_size)):
            images = self.decode(batch)
            if images:
                embeds.append(check_finite(encoder.encode_image(images), "pictures"))
        if not embeds:
            reason = f": {self.unreadable[0]}" if self.unreadable else ""
            raise DataError(f"there is no readable picture{reason}")
        self.embeds = torch.cat(embeds)

    def decode(self, pictures: list[Picture]) -> list[Image.Image]:
        """The images of those pictures that can be read; notes the others."""
        images = []
        for picture in pictures:
            try:
                images.append(picture.decode())
                self.pictures.append(picture)
            except BadImageError as error:
                self.unreadable.append(f"{picture.name} ({error})")
        return images

    def __call__(self, query: str, top_k: int = 5) -> list[tuple[Picture, float]]:
        """The best pictures for a text, best first, each with its cosine similarity.

        Raises:
            UserError: the query is empty.
        """
        check_query(query)
        text_embeds = check_finite(self.encoder.encode_text([query]), "queries")
        scores, places = torch.topk(
            (self.embeds @ text_embeds.t()).squeeze(1), min(top_k, len(self.pictures))
        )
        return [
            (self.pictures[place], score)
            for place, score in zip(places.tolist(), scores.tolist(), strict=True)
        ]
