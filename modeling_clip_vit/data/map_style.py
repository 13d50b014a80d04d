"""Map-style datasets: the sample of a row number, in any order.

Shape legend: `N` images, `S` side in pixels.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from datasets import Dataset
from torch.utils.data import Dataset as MapDataset

from .features import StoredFeatures
from .images import image_name
from .rows import Row, Sample, SkippedSample
from .samples import SampleMaker

#: In place of an image that is not read.
NO_IMAGE = torch.empty(0)


class Images(Protocol):
    """The images of a table, by row."""

    def __getitem__(self, row: int) -> tuple[Any, str]:
        """The image of a row, encoded or as pixels, and what to call the row in a message."""


class StoredImages:
    """Images that were all decoded beforehand.

    Args:
        pixels: uint8 (3, height, width) of each.
        rows: the row of each.
    """

    def __init__(self, pixels: torch.Tensor | list[torch.Tensor], rows: list[int]):
        self.pixels = pixels
        self.position = {row: position for position, row in enumerate(rows)}

    def __getitem__(self, row: int) -> tuple[torch.Tensor, str]:
        return self.pixels[self.position[row]], f"row {row}"


class EncodedImages:
    """Images that are read from their table whenever a sample is made, in the loader's workers.

    Args:
        split: the table.
        column: its column of images.
    """

    def __init__(self, split: Dataset, column: str):
        self.split, self.column = split, column

    def __getitem__(self, row: int) -> tuple[Any, str]:
        image = self.split[row][self.column]
        return image, image_name(image, row)


class ImageTextSamples(MapDataset):
    """Rows of a table, varied anew in each epoch.

    An index is a pair (row, draw). All that is random in a sample comes from the seed and that
    pair.

    Args:
        images: of the rows.
        maker: makes samples of rows.
        concepts: concept number of each row: rows of one concept belong together; None if equal
            captions do.
        fingerprint: of the rows and their content.
    """

    def __init__(
        self,
        images: Images,
        maker: SampleMaker,
        concepts: Sequence[int] | None = None,
        fingerprint: str = "",
    ):
        self.images, self.maker, self.concepts = images, maker, concepts
        self.fingerprint = fingerprint
        #: What takes the place of pixels, of texts or of both, once it is set.
        self.features: StoredFeatures | None = None

    def __getitem__(self, index: tuple[int, ...]) -> Sample | SkippedSample:
        number, draw = index
        if self.features is None:
            return self.maker.make(self.find_row(number), draw, number)
        return self.add_features(self.features, number, draw)

    def make_without_image(self, number: int, draw: int) -> Sample | SkippedSample:
        """A sample of a row, its image neither read nor varied."""
        row = self.make_row(number, NO_IMAGE, f"row {number}")
        return self.maker.make_without_image(row, draw, number)

    def of_size(self, image_size: int) -> "ImageTextSamples":
        """The same samples with images of another size, otherwise varied in the same way."""
        return ImageTextSamples(self.images, self.maker.of_size(image_size), self.concepts)

    def find_row(self, number: int) -> Row:
        """A row by its number."""
        image, name = self.images[number]
        return self.make_row(number, image, name)

    def make_row(self, number: int, image: Any, name: str) -> Row:
        """A row with this image, and the concept that it has among all rows."""
        row = Row(name, {self.maker.image_column: image}, number=number)
        if self.concepts is not None:
            row.concept = self.concepts[number]
        return row

    def add_features(
        self, features: StoredFeatures, number: int, draw: int
    ) -> Sample | SkippedSample:
        """A sample with the features of a row, and only what else it still needs."""
        if number in features.skipped:
            return SkippedSample(f"row {number}", features.skipped[number])
        if features.is_complete:
            concept = int(features.concepts[features.view(draw), number])
            sample: Sample | SkippedSample = Sample(None, None, [], concept)
        elif features.has_pixels:
            sample = self.maker.make(self.find_row(number), features.key(draw), number)
        else:
            sample = self.make_without_image(number, features.key(draw))
        if isinstance(sample, Sample):
            sample.image_features = features.of_image(number, draw)
            sample.text_features = features.of_texts(number, draw)
        return sample
