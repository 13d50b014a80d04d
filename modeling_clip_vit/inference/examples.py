"""Labelled examples of a few-shot classifier: opened, checked, drawn and embedded.

Shape legend: `N` examples, `P` projection.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import torch
from datasets import Dataset
from PIL import Image

from ..data.columns import check_columns, choose_image_column, choose_label_column, column_kinds
from ..data.decoding import BadImageError, decode_image
from ..data.errors import DataError
from ..data.images import image_name
from ..data.labels import NO_CLASS, Labels, read_labels
from ..data.sources import get_split, open_dataset
from ..utils.errors import UserError
from .embedding import check_finite
from .few_shot import Examples
from .gallery import Encode


@dataclass
class LabelledPictures:
    """Pictures with classes, not decoded yet.

    Args:
        path: name of the dataset in messages.
        rows: the pictures.
        image_column: their column.
        labels: their classes; a row with another class is no example.
        shots: examples of each class that are used; None for all.
        unreadable: names of those that could not be decoded, each with the reason.
    """

    path: str
    rows: Dataset
    image_column: str
    labels: Labels
    shots: int | None
    unreadable: list[str] = field(default_factory=list)

    def embed(self, encode: Encode, seed: int, batch_size: int = 64) -> Examples:
        """Draw examples by the seed, and embed them.

        Raises:
            DataError: too few pictures of a class can be decoded.
        """
        embeds, labels = [], []
        drawn = self.draw(seed)
        while batch := list(islice(drawn, batch_size)):
            embeds.append(check_finite(encode([image for image, _ in batch]), "examples"))
            labels += [label for _, label in batch]
        self.check_counts(labels, "readable examples")
        return Examples(torch.cat(embeds), torch.tensor(labels))

    def draw(self, seed: int) -> Iterator[tuple[Image.Image, int]]:
        """Decoded examples with their classes, in random order; another takes the place of one that
        cannot be decoded.
        """
        counts = [0] * len(self.labels.names)
        order = torch.randperm(len(self.rows), generator=torch.Generator().manual_seed(seed))
        for row in order.tolist():
            label = self.labels.rows[row]
            if label == NO_CLASS or counts[label] == self.shots:
                continue
            source = self.rows[row][self.image_column]
            try:
                image = decode_image(source)
            except BadImageError as error:
                self.unreadable.append(f"{image_name(source, row)} ({error})")
                continue
            counts[label] += 1
            yield image, label

    def check_counts(self, labels: Sequence[int], what: str):
        """Check that every class has examples, as many as are used.

        Args:
            labels: class of each example.
            what: what they are, in the message.

        Raises:
            DataError: the message names a class that has too few.
        """
        counts = Counter(labels)
        for label, name in enumerate(self.labels.names):
            count = counts[label]
            if count == 0:
                raise DataError(f"class {name!r} has no {what} in {self.path!r}")
            if self.shots is not None and count < self.shots:
                raise DataError(
                    f"class {name!r} has {count} {what} in {self.path!r}, fewer than "
                    f"shots={self.shots}"
                )


def open_examples(
    path: str,
    names: Sequence[str] | None = None,
    shots: int | None = None,
    split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
) -> LabelledPictures:
    """Open labelled pictures: a folder with a folder of pictures for each class, or a dataset.

    Args:
        path: of the folder or the dataset.
        names: the classes; None for those that the examples have.
        shots: examples of each class that will be used; None for all.
        split: of the dataset; by default train, or the first if there is none.
        image_column, label_column: guessed by default.

    Raises:
        DataError: there is no such dataset, split or column, or too few examples of a class.
    """
    splits = open_dataset(path, image_column)
    rows = get_split(splits, split or ("train" if "train" in splits else next(iter(splits))), path)
    kinds = column_kinds(rows.features)
    image_column = image_column or choose_image_column(kinds, path)
    label_column = label_column or choose_label_column(kinds, path)
    check_columns(rows.column_names, [image_column, label_column], path)
    labels = read_labels(rows, label_column, path, names)
    if len(labels.names) < 2:
        raise UserError(f"the examples in {path!r} are all of the class {labels.names[0]!r}")
    pictures = LabelledPictures(
        path, rows.select_columns([image_column]), image_column, labels, shots
    )
    pictures.check_counts(labels.rows, "examples")
    return pictures
