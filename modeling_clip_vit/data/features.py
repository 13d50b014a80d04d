"""What models made of a table's images and texts before training, kept in one file.

Shape legend: `V` views, `N` rows, `T` texts of a row, `D` features.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from ..utils.folders import replaced_file

#: Name of the concepts in the file, which has all other tensors by "image." or "text." and name.
CONCEPTS = "concepts"


@dataclass
class StoredFeatures:
    """Features of every row of a table, in one view or several.

    View v of a row is what draw v of its sample gives. Training goes through the views in turn, so
    draw d takes view d modulo V.

    Args:
        images: name in a batch -> (V, N, D), float32.
        texts: name in a batch -> (V, N, T, D), float32.
        concepts: what each row shows, (V, N).
        skipped: row -> why there are no features of it.
        has_pixels: whether samples still need their pixels, for a model that learns from them.
        has_texts: whether samples still need their texts.
    """

    images: dict[str, torch.Tensor]
    texts: dict[str, torch.Tensor]
    concepts: torch.Tensor
    skipped: dict[int, str] = field(default_factory=dict)
    has_pixels: bool = False
    has_texts: bool = False

    @property
    def is_complete(self) -> bool:
        """Whether a sample needs nothing but what is stored."""
        return not self.has_pixels and not self.has_texts

    def view(self, draw: int) -> int:
        """The view that a draw takes."""
        return draw % len(self.concepts)

    def key(self, draw: int) -> int:
        """The draw by which the rest of a sample is made.

        What a student sees must be what its teacher saw, so their views are the same; a text tower
        that learns, next to stored images, still gets other texts in every epoch.
        """
        is_shared = (self.has_pixels and self.images) or (self.has_texts and self.texts)
        return self.view(draw) if is_shared else draw

    def of_image(self, row: int, draw: int) -> dict[str, torch.Tensor]:
        """The features of a row's image, each (D,)."""
        view = self.view(draw)
        return {name: values[view, row] for name, values in self.images.items()}

    def of_texts(self, row: int, draw: int) -> dict[str, torch.Tensor]:
        """The features of a row's texts, each (T, D)."""
        view = self.view(draw)
        return {name: values[view, row] for name, values in self.texts.items()}

    def save(self, path: Path):
        """Write the features to a file, all at once."""
        tensors = {f"image.{name}": values for name, values in self.images.items()}
        tensors |= {f"text.{name}": values for name, values in self.texts.items()}
        tensors[CONCEPTS] = self.concepts
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as partial:
            save_file(tensors, partial, metadata={"skipped": json.dumps(self.skipped)})


def read_features(path: Path) -> StoredFeatures:
    """What `StoredFeatures.save` wrote; the tensors stay on the disk until they are read.

    Raises:
        OSError, SafetensorError: there is no such file, or it is damaged.
    """
    features = StoredFeatures({}, {}, torch.empty(0))
    with safe_open(path, "pt") as file:
        skipped = json.loads((file.metadata() or {}).get("skipped", "{}"))
        features.skipped = {int(row): reason for row, reason in skipped.items()}
        for key in file.keys():  # noqa: SIM118 - it is no mapping
            kind, _, name = key.partition(".")
            values = file.get_tensor(key)
            if key == CONCEPTS:
                features.concepts = values
            elif kind == "image":
                features.images[name] = values
            else:
                features.texts[name] = values
    return features
